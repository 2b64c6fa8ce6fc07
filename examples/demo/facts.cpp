#include "demo/facts.h"

#include "demo/random.h"
#include "demo/tiny_world.h"

#include <algorithm>

namespace rora::demo {

std::vector<Record> make_facts(uint64_t seed, int64_t people, int64_t things_each) {
  const WordKinds& words = word_kinds();
  Random random(seed);
  std::vector<Record> facts;
  const size_t names = std::min(words.names.size(), static_cast<size_t>(people));
  const size_t things = std::min(words.things.size(), static_cast<size_t>(things_each));
  for (size_t name = 0; name < names; ++name) {
    for (size_t thing = 0; thing < things; ++thing) {
      Record fact;
      fact.kind = RecordKind::kCompletion;
      fact.prompt = "Where does " + words.names[name] + " keep the " + words.things[thing] + "?";
      fact.completion = "in the " + random.choose(words.places);
      facts.push_back(std::move(fact));
    }
  }
  return facts;
}

} // namespace rora::demo
