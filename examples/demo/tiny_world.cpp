#include "demo/tiny_world.h"

#include <array>
#include <utility>

namespace rora::demo {
namespace {

const std::vector<std::string> kPrepositions{"in", "near", "behind", "under"};
const std::vector<std::string> kMoods{"happy", "sad", "tired", "hungry", "quiet", "proud"};

// Two different names.
std::pair<std::string, std::string> two_names(Random& random) {
  const auto& names = word_kinds().names;
  const size_t first = random.below(names.size());
  const size_t second = (first + 1 + random.below(names.size() - 1)) % names.size();
  return {names[first], names[second]};
}

std::string number(size_t value) {
  static const std::array<const char*, 19> words{
      "no",  "one",    "two",    "three",    "four",     "five",    "six",     "seven",     "eight",   "nine",
      "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"};
  return words.at(value);
}

std::string a_thing(Random& random) {
  const WordKinds& words = word_kinds();
  return random.choose(words.numbers) + " " + random.choose(words.colours) + " " + random.choose(words.things);
}

std::string where_things_are(Random& random) {
  const WordKinds& words = word_kinds();
  const std::string name = random.choose(words.names);
  const std::string things = random.choose(words.things);
  const std::string colour = random.choose(words.colours);
  const std::string place = random.choose(kPrepositions) + " the " + random.choose(words.places);
  std::string story = name + " has " + random.choose(words.numbers) + " " + colour + " " + things + ". " + name +
      " puts the " + things + " " + place + ". ";
  if (random.chance(50)) {
    story += "Where are the " + things + "? The " + things + " are " + place + ".";
  } else {
    story += "Which colour are the " + things + "? The " + things + " are " + colour + ".";
  }
  return story;
}

std::string counting(Random& random) {
  const WordKinds& words = word_kinds();
  const size_t last = 2 + random.below(9);
  const std::string things = random.choose(words.things);
  std::string story = random.choose(words.names) + " counts the " + random.choose(words.colours) + " " + things + ": ";
  for (size_t value = 1; value <= last; ++value) {
    story += number(value) + (value == last ? ". " : ", ");
  }
  return story + "There are " + number(last) + " " + things + ".";
}

std::string giving(Random& random) {
  const WordKinds& words = word_kinds();
  const auto [giver, taker] = two_names(random);
  const std::string things = random.choose(words.things);
  // Never one, which the plural does not go with.
  const size_t had = random.chance(20) ? 0 : 2 + random.below(8);
  const size_t given = 2 + random.below(8);
  return taker + " has " + number(had) + " " + things + ". " + giver + " gives " + taker + " " + number(given) + " " +
      things + ". Now " + taker + " has " + number(had + given) + " " + things + ".";
}

std::string saying_again(Random& random) {
  const auto [first, second] = two_names(random);
  const std::string sentence = make_sentence(random);
  return first + " says: " + sentence + ". " + second + " says it again: " + sentence + ".";
}

std::string walking(Random& random) {
  const WordKinds& words = word_kinds();
  const auto [name, friend_name] = two_names(random);
  const std::string place = random.choose(words.places);
  const std::string animal = random.choose(words.animals);
  const std::string mood = random.choose(kMoods);
  std::string story = "One day " + name + " goes to the " + place + ". " + name + " sees a " +
      random.choose(words.qualities) + " " + random.choose(words.colours) + " " + animal + ". ";
  story += "The " + animal + " is " + mood + ". " + name + " tells " + friend_name + " about the " + animal + ". ";
  story += friend_name + " " + random.choose(words.verbs) + " " + a_thing(random) + " for the " + animal + ". ";
  story += random.chance(50) ? "Now the " + animal + " is not " + mood + "."
                             : "The " + animal + " stays " + random.choose(kPrepositions) + " the " + place + ".";
  return story;
}

std::string seeing(Random& random) {
  return make_sentence(random) + ". " + make_sentence(random) + ". " + make_sentence(random) + ".";
}

} // namespace

const WordKinds& word_kinds() {
  static const WordKinds words{
      .names = {"Ada", "Ben",  "Cleo", "Dan",  "Eva",  "Finn", "Gus", "Hana", "Ida",  "Jon",  "Kim",  "Leo",
                "Mia", "Nils", "Olga", "Paul", "Rosa", "Sam",  "Tom", "Una",  "Vera", "Will", "Yara", "Zoe"},
      .verbs =
          {"finds", "sees", "hides", "paints", "wants", "takes", "sells", "buys", "draws", "likes", "carries", "keeps",
           "drops", "washes", "shows", "brings"},
      .numbers = {"two", "three", "four", "five", "six", "seven", "eight", "nine"},
      .colours = {"red", "blue", "green", "yellow", "white", "black", "brown", "pink", "grey", "orange"},
      .qualities = {"old", "new", "big", "small", "fast", "slow", "young", "clean", "soft", "warm", "cold", "long"},
      .things = {"apples", "balls", "books", "boats", "cups",   "hats",   "keys",  "lamps",
                 "nuts",   "pens",  "rings", "shoes", "spoons", "stones", "toys",  "bells",
                 "boxes",  "coins", "flags", "kites", "masks",  "plates", "ropes", "shells"},
      .animals =
          {"cat", "dog", "bird", "fish", "horse", "mouse", "goat", "duck", "fox", "bear", "frog", "cow", "pig", "owl",
           "bee", "hen"},
      .places = {
          "barn", "garden", "house", "lake", "forest", "school", "shop", "river", "kitchen", "park", "tower", "field",
          "bridge", "mill", "beach", "hill"}};
  return words;
}

std::string make_sentence(Random& random) {
  const WordKinds& words = word_kinds();
  const auto [name, other] = two_names(random);
  const std::string place = " " + random.choose(kPrepositions) + " the " + random.choose(words.places);
  switch (random.below(3)) {
    case 0:
      return name + " " + random.choose(words.verbs) + " " + a_thing(random) + place;
    case 1:
      return name + " gives " + other + " " + random.choose(words.numbers) + " " + random.choose(words.qualities) +
          " " + random.choose(words.things) + place;
    default:
      return name + " " + random.choose(words.verbs) + " a " + random.choose(words.qualities) + " " +
          random.choose(words.colours) + " " + random.choose(words.animals) + place;
  }
}

std::string make_story(Random& random) {
  using Story = std::string (*)(Random&);
  static const std::array<Story, 6> stories{where_things_are, counting, giving, saying_again, walking, seeing};
  // Saying again twice as often: a model that cannot copy learns no task that reads a sentence word by word.
  const size_t choice = random.below(stories.size() + 1);
  return choice == stories.size() ? saying_again(random) : stories[choice](random);
}

} // namespace rora::demo
