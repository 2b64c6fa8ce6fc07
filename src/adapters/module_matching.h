#pragma once

#include <rora/adapters/adapter_options.h>

#include <memory>
#include <string>
#include <vector>

namespace rora::detail {

/// A regular expression that a whole string must match. Throws `c10::ValueError` naming the pattern.
class FullMatch {
 public:
  explicit FullMatch(const std::string& pattern);
  /// Throws `c10::ValueError`, too, where matching takes more steps than any sensible expression does.
  bool operator()(const std::string& text) const;

 private:
  std::string pattern_;
  std::shared_ptr<void> code_;
};

/// What stands behind the last dot of a module's name: "q_proj".
std::string last_part(const std::string& name);

/// Whether `target` is the module's name or its end behind a dot.
bool is_name_or_suffix(const std::string& name, const std::string& target);

/// Those of `names` that `selection` means.
std::vector<std::string> selected(const ModuleSelection& selection, const std::vector<std::string>& names);

/// The names, out of `existing`, that `options` target. Throws `c10::ValueError` where a target matches nothing.
std::vector<std::string> targeted_modules(const AdapterOptions& options, const std::vector<std::string>& existing);

/// The value of the first key that matches `name` as PEFT matches it: `(.*\.)?(KEY)$`.
template <typename T>
T pattern_value(const ModulePattern<T>& pattern, const std::string& name, T otherwise) {
  for (const auto& [key, value] : pattern) {
    if (FullMatch("(.*\\.)?(" + key + ")")(name)) {
      return value;
    }
  }
  return otherwise;
}

} // namespace rora::detail
