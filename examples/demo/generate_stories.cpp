// Prints the stories that the demo's model is trained from, as JSON lines of {"text": STORY}: generate_stories SEED
// COUNT. The same seed gives the same bytes on every platform.

#include "demo/random.h"
#include "demo/tiny_world.h"

#include <nlohmann/json.hpp>

#include <charconv>
#include <cstdio>
#include <cstring>

namespace {

bool parse(const char* text, uint64_t& value) {
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  return error == std::errc() && stop == end;
}

} // namespace

int main(int argc, char** argv) {
  uint64_t seed = 0;
  uint64_t count = 0;
  if (argc != 3 || !parse(argv[1], seed) || !parse(argv[2], count)) {
    std::fprintf(stderr, "usage: generate_stories SEED COUNT\n");
    return 2;
  }
  rora::demo::Random random(seed);
  for (uint64_t i = 0; i < count; ++i) {
    std::puts(nlohmann::json{{"text", rora::demo::make_story(random)}}.dump().c_str());
  }
  return std::fflush(stdout) == 0 ? 0 : 1;
}
