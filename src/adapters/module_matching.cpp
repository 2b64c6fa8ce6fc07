#include "module_matching.h"

#include "../checkpoint/quote.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <iterator>
#include <set>

namespace rora::detail {
namespace {

// Names of modules are short: only nested repeats, whose time doubles with each character, come near these.
constexpr uint32_t kMatchLimit = 100'000;
constexpr uint32_t kHeapLimitKiB = 64 * 1024;

/// The number after "layers.": a LLaMA's layer; −1 where there is none.
int64_t layer_of(const std::string& name) {
  constexpr std::string_view kMark = "layers.";
  const size_t mark = name.find(kMark);
  int64_t layer = -1;
  if (mark != std::string::npos) {
    const char* begin = name.data() + mark + kMark.size();
    std::from_chars(begin, name.data() + name.size(), layer);
  }
  return layer;
}

std::string list(const std::set<std::string>& names) {
  std::string text;
  for (const std::string& each : names) {
    text += (text.empty() ? "" : ", ") + each;
  }
  return text;
}

[[noreturn]] void matches_nothing(const std::string& target, const std::vector<std::string>& existing) {
  std::set<std::string> kinds;
  for (const std::string& name : existing) {
    kinds.insert(last_part(name));
  }
  C10_THROW_ERROR(
      ValueError,
      "target module " + quote(target) + " matches nothing; the model has " +
          (kinds.empty() ? "no projections" : list(kinds)) +
          (last_part(target) == "lm_head" ? "; a head that is tied to the embedding is none of them" : ""));
}

/// Whether a selection means each of the names, compiled once.
class Selector {
 public:
  explicit Selector(const ModuleSelection& selection) : selection_(selection) {
    if (!selection.regex.empty()) {
      regex_ = std::make_unique<FullMatch>(selection.regex);
    }
  }
  bool operator()(const std::string& name) const {
    if (regex_) {
      return (*regex_)(name);
    }
    if (selection_.all_linear) {
      return last_part(name) != "lm_head";
    }
    return std::any_of(selection_.names.begin(), selection_.names.end(), [&](const std::string& target) {
      return is_name_or_suffix(name, target);
    });
  }

 private:
  const ModuleSelection& selection_;
  std::unique_ptr<FullMatch> regex_;
};

/// Drops the names outside of layers_to_transform, but for those that target_modules gives in whole, as PEFT does.
void keep_layers(const AdapterOptions& options, std::vector<std::string>& names) {
  const auto& layers = options.layers_to_transform();
  const auto& whole = options.target_modules().names;
  std::set<int64_t> absent(layers.begin(), layers.end());
  bool any_by_layer = false;
  std::erase_if(names, [&](const std::string& name) {
    const int64_t layer = layer_of(name);
    const bool named_in_whole = std::find(whole.begin(), whole.end(), name) != whole.end();
    any_by_layer = any_by_layer || !named_in_whole;
    absent.erase(layer);
    return !named_in_whole && std::find(layers.begin(), layers.end(), layer) == layers.end();
  });
  if (any_by_layer && !absent.empty()) {
    C10_THROW_ERROR(
        ValueError, "layers_to_transform names layer " + std::to_string(*absent.begin()) + ", which has no target");
  }
}

} // namespace

std::string last_part(const std::string& name) {
  return name.substr(name.rfind('.') + 1);
}

bool is_name_or_suffix(const std::string& name, const std::string& target) {
  return name == target || name.ends_with("." + target);
}

FullMatch::FullMatch(const std::string& pattern) {
  int error = 0;
  PCRE2_SIZE place = 0;
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED,
      &error, &place, nullptr);
  TORCH_CHECK_VALUE(code != nullptr, quote(pattern), " is not a regular expression");
  pattern_ = pattern;
  code_ = std::shared_ptr<void>(code, [](void* held) { pcre2_code_free(static_cast<pcre2_code*>(held)); });
}

bool FullMatch::operator()(const std::string& text) const {
  auto* code = static_cast<pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKiB);
  const int result =
      pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0, data.get(), context.get());
  TORCH_CHECK_VALUE(
      result >= 0 || result == PCRE2_ERROR_NOMATCH, "the regular expression ", quote(pattern_), " cannot be matched ",
      "with ", quote(text), ": it takes too many steps");
  return result >= 0;
}

std::vector<std::string> selected(const ModuleSelection& selection, const std::vector<std::string>& names) {
  const Selector meant(selection);
  std::vector<std::string> found;
  std::copy_if(names.begin(), names.end(), std::back_inserter(found), std::cref(meant));
  return found;
}

std::vector<std::string> targeted_modules(const AdapterOptions& options, const std::vector<std::string>& existing) {
  const ModuleSelection& targets = options.target_modules();
  TORCH_CHECK_VALUE(!targets.empty(), "target_modules names nothing");
  for (const std::string& target : targets.names) {
    const auto meant = [&](const std::string& name) { return is_name_or_suffix(name, target); };
    if (std::none_of(existing.begin(), existing.end(), meant)) {
      matches_nothing(target, existing);
    }
  }
  TORCH_CHECK_VALUE(
      options.layers_to_transform().empty() || targets.regex.empty(),
      "layers_to_transform goes with a list of target_modules, not with a regular expression");
  std::vector<std::string> chosen = selected(targets, existing);
  if (chosen.empty()) {
    matches_nothing(targets.regex.empty() ? "all-linear" : targets.regex, existing);
  }
  if (!options.exclude_modules().empty()) {
    const Selector excluded(options.exclude_modules());
    std::erase_if(chosen, std::cref(excluded));
    TORCH_CHECK_VALUE(!chosen.empty(), "exclude_modules leaves none of the target modules");
  }
  if (!options.layers_to_transform().empty()) {
    keep_layers(options, chosen);
  }
  return chosen;
}

} // namespace rora::detail
