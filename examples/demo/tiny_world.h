#pragma once

#include "demo/random.h"

#include <string>
#include <vector>

namespace rora::demo {

/// The words of the tiny world by kind; all of a kind may stand in each other's place.
struct WordKinds {
  std::vector<std::string> names;
  std::vector<std::string> verbs; ///< "finds"
  std::vector<std::string> numbers; ///< "two" to "nine"
  std::vector<std::string> colours;
  std::vector<std::string> qualities; ///< "old"
  std::vector<std::string> things; ///< plural: "apples"
  std::vector<std::string> animals; ///< singular: "cat"
  std::vector<std::string> places; ///< behind "the"
};

const WordKinds& word_kinds();

/// A sentence of the world, without a full stop: "Mia finds three red apples in the barn".
std::string make_sentence(Random& random);

/// A story of the world on one line: who has what, where things are, counting, small sums, questions with answers, and
/// people who say again what others said.
std::string make_story(Random& random);

} // namespace rora::demo
