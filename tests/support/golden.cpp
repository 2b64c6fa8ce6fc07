#include "support/golden.h"

#include "support/gradcheck.h"
#include "support/test_data.h"

#include <rora/checkpoint/file.h>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <sstream>

namespace rora::testing {
namespace {

std::string identifier(std::string name) {
  std::replace_if(
      name.begin(), name.end(), [](unsigned char letter) { return !std::isalnum(letter); }, '_');
  return name;
}

} // namespace

std::vector<Golden> goldens() {
  std::vector<Golden> found{{"tiny", test_data("golden/model"), test_data("golden/answers")}};
  if (const char* more = std::getenv("RORA_GOLDEN")) {
    std::istringstream list(more);
    for (std::string each; std::getline(list, each, ':');) {
      const size_t split = each.find('=');
      const std::filesystem::path answers = each.substr(split + 1);
      found.push_back({identifier(answers.filename()), each.substr(0, split), answers});
    }
  }
  return found;
}

std::vector<GoldenAdapter> golden_adapters() {
  std::vector<GoldenAdapter> found;
  for (const Golden& golden : goldens()) {
    for (const auto& entry : std::filesystem::directory_iterator(golden.answers)) {
      if (entry.is_directory()) {
        found.push_back({golden.name + "_" + identifier(entry.path().filename()), golden, entry.path()});
      }
    }
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return found;
}

GreedyPrompts read_greedy(const std::filesystem::path& path) {
  const auto text = nlohmann::json::parse(read_file(path));
  GreedyPrompts greedy;
  for (const auto& row : text.at("greedy")) {
    const auto ids = row.at("ids").get<std::vector<int64_t>>();
    size_t length = row.value("prompt_length", size_t{0});
    for (size_t i = 0; length == 0; ++i) {
      const auto& tokenised = text.at("tokenisation").at(i);
      if (tokenised.at("text") == row.at("prompt")) {
        length = tokenised.at("ids").size();
      }
    }
    const auto split = ids.begin() + static_cast<int64_t>(length);
    greedy.prompts.emplace_back(ids.begin(), split);
    greedy.continuations.emplace_back(split, ids.end());
  }
  return greedy;
}

std::ostream& operator<<(std::ostream& stream, const Golden& golden) {
  return stream << golden.answers;
}

std::ostream& operator<<(std::ostream& stream, const GoldenAdapter& adapter) {
  return stream << adapter.folder;
}

double logits_error(const at::Tensor& logits, const at::Tensor& stored) {
  return relative_error(logits.slice(1, logits.size(1) - stored.size(1)), stored);
}

} // namespace rora::testing
