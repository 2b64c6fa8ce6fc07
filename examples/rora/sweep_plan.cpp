#include "sweep_plan.h"

#include "flags.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <string_view>

namespace rora::cli {
namespace {

template <typename T>
std::optional<T> parse(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional<T>(value) : std::nullopt;
}

[[noreturn]] void refuse(const std::string& flag, const std::string& expected, const std::string& found) {
  throw UsageError("--" + flag + ": expected " + expected + ", found '" + found + "'");
}

int64_t read_rank(const std::string& text) {
  const auto rank = parse<int64_t>(text);
  if (!rank || *rank < 1 || *rank > kMaxRank) {
    refuse("ranks", "whole numbers from 1 to " + std::to_string(kMaxRank), text);
  }
  return *rank;
}

double read_rate(const std::string& text) {
  const auto rate = parse<double>(text);
  if (!rate || !(*rate > 0.0 && *rate <= 1e6)) {
    refuse("lrs", "numbers above 0, up to 1e6", text);
  }
  return *rate;
}

AlphaRule read_alpha(const std::string& text) {
  AlphaRule rule;
  rule.of_rank = text.ends_with('r');
  const auto factor = parse<double>(rule.of_rank ? std::string_view(text).substr(0, text.size() - 1) : text);
  if (!factor || !(*factor > 0.0 && *factor <= 1e6)) {
    refuse("alphas", "numbers above 0, up to 1e6, or as many times the rank as 2r says", text);
  }
  rule.factor = *factor;
  return rule;
}

template <typename T>
void require_distinct(const std::string& flag, const std::vector<T>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::find(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(i), values[i]) !=
        values.begin() + static_cast<std::ptrdiff_t>(i)) {
      throw UsageError("--" + flag + " names a value twice");
    }
  }
  if (values.empty()) {
    throw UsageError("--" + flag + " names none");
  }
}

template <typename T, typename Read>
std::vector<T> read_all(const std::string& flag, const std::vector<std::string>& texts, Read read) {
  std::vector<T> values;
  for (const std::string& text : texts) {
    values.push_back(read(text));
  }
  require_distinct(flag, values);
  return values;
}

} // namespace

std::string number_text(double value) {
  const auto whole = static_cast<int64_t>(value);
  return static_cast<double>(whole) == value ? std::to_string(whole) : Json(value).dump();
}

std::string AlphaRule::text() const {
  return number_text(factor) + (of_rank ? "r" : "");
}

std::string SweepRun::name() const {
  std::string text = method->name;
  if (method->has_alpha) {
    text += "-alpha" + alpha.text();
  }
  if (method->has_rank) {
    text += "-r" + std::to_string(rank);
  }
  return text + "-lr" + number_text(lr) + "-seed" + std::to_string(seed);
}

std::vector<SweepRun> SweepAxes::runs() const {
  std::vector<SweepRun> all;
  for (const int64_t seed : seeds) {
    for (const int64_t rank : ranks) {
      for (const AlphaRule& alpha : alphas) {
        for (const Method* method : methods) {
          const bool again =
              (!method->has_rank && rank != ranks.front()) || (!method->has_alpha && alpha != alphas.front());
          for (const double lr : lrs) {
            if (!again) {
              all.push_back({method, alpha, method->has_rank ? rank : 0, lr, seed});
            }
          }
        }
      }
    }
  }
  return all;
}

SweepAxes read_axes(
    const std::vector<std::string>& methods, const std::vector<std::string>& alphas,
    const std::vector<std::string>& ranks, const std::vector<std::string>& lrs, int64_t seeds, int64_t first_seed) {
  SweepAxes axes;
  axes.methods = read_all<const Method*>(
      "methods", methods, [](const std::string& name) { return &find_method("methods", name); });
  axes.alphas = read_all<AlphaRule>("alphas", alphas, read_alpha);
  axes.ranks = read_all<int64_t>("ranks", ranks, read_rank);
  axes.lrs = read_all<double>("lrs", lrs, read_rate);
  std::sort(axes.ranks.begin(), axes.ranks.end());
  std::sort(axes.lrs.begin(), axes.lrs.end());
  if (first_seed > std::numeric_limits<int64_t>::max() - seeds) {
    throw UsageError("--seed: there are not --seeds numbers from it on in 64 bits");
  }
  for (int64_t i = 0; i < seeds; ++i) {
    axes.seeds.push_back(first_seed + i);
  }
  return axes;
}

} // namespace rora::cli
