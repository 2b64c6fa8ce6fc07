// Prints records as JSON lines, the same bytes on every platform:
//   generate_data stories SEED COUNT         {"text": STORY}, which the demo's model is trained from
//   generate_data facts SEED PEOPLE THINGS   {"prompt": QUESTION, "completion": PLACE}, which it is taught

#include "demo/facts.h"
#include "demo/random.h"
#include "demo/tiny_world.h"

#include <nlohmann/json.hpp>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace {

using nlohmann::ordered_json;

bool parse(const char* text, uint64_t& value) {
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  return error == std::errc() && stop == end;
}

void print(const ordered_json& record) {
  std::puts(record.dump().c_str());
}

void print_stories(uint64_t seed, uint64_t count) {
  rora::demo::Random random(seed);
  for (uint64_t i = 0; i < count; ++i) {
    print({{"text", rora::demo::make_story(random)}});
  }
}

void print_facts(uint64_t seed, uint64_t people, uint64_t things) {
  for (const rora::Record& fact :
       rora::demo::make_facts(seed, static_cast<int64_t>(people), static_cast<int64_t>(things))) {
    print({{"prompt", fact.prompt}, {"completion", fact.completion}});
  }
}

} // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  std::vector<uint64_t> numbers;
  for (int i = 2; i < argc; ++i) {
    uint64_t number = 0;
    if (parse(argv[i], number)) {
      numbers.push_back(number);
    }
  }
  const bool whole = argc == static_cast<int>(numbers.size()) + 2;
  if (whole && what == "stories" && numbers.size() == 2) {
    print_stories(numbers[0], numbers[1]);
  } else if (whole && what == "facts" && numbers.size() == 3) {
    print_facts(numbers[0], numbers[1], numbers[2]);
  } else {
    std::fprintf(stderr, "usage: generate_data stories SEED COUNT | generate_data facts SEED PEOPLE THINGS\n");
    return 2;
  }
  return std::fflush(stdout) == 0 ? 0 : 1;
}
