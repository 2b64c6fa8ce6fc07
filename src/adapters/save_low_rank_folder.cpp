#include "../checkpoint/json_object.h"
#include "adapter_config.h"
#include "adapter_files.h"
#include "attachment.h"
#include "change_error.h"
#include "kinds/low_rank.h"
#include "module_matching.h"

#include <rora/adapters/low_rank_folder.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <set>

namespace rora {
namespace {

template <typename T>
using ByModule = std::map<std::string, T>;

/// What the config says of one field: a value, and others for some modules.
template <typename T>
struct Written {
  T value;
  ModulePattern<T> pattern;
};

/// The value of most modules; of several, that of the first module.
template <typename T>
T most_frequent(const ByModule<T>& values) {
  std::map<T, int64_t> counts;
  for (const auto& [module, value] : values) {
    ++counts[value];
  }
  const std::pair<const std::string, T>* best = &*values.begin();
  for (const auto& each : values) {
    best = counts[each.second] > counts[best->second] ? &each : best;
  }
  return best->second;
}

/// The name as a regular expression. Dots stand as they are, as everyone writes them.
std::string escaped(const std::string& name) {
  std::string text;
  for (const char each : name) {
    const auto code = static_cast<unsigned char>(each);
    const bool special = code < 0x80 && std::isalnum(code) == 0 && each != '.' && each != '_' && each != '-';
    text += special ? std::string("\\") + each : std::string(1, each);
  }
  return text;
}

/// The key that means that module alone: as PEFT matches them, a name is also the end of longer ones.
std::string key_of(const std::string& module, const std::set<std::string>& modules) {
  const bool ends_another = std::any_of(
      modules.begin(), modules.end(), [&](const std::string& other) { return other.ends_with("." + module); });
  return (ends_another ? "^" : "") + escaped(module);
}

/// As short as it can be said: by the last part of a name where all modules of that name have one value.
template <typename T>
Written<T> compose(const ByModule<T>& values) {
  Written<T> written{most_frequent(values), {}};
  std::map<std::string, std::set<T>> by_last_part;
  std::set<std::string> modules;
  for (const auto& [module, value] : values) {
    by_last_part[detail::last_part(module)].insert(value);
    modules.insert(module);
  }
  for (const auto& [last, own] : by_last_part) {
    if (own.size() == 1 && *own.begin() != written.value) {
      written.pattern.emplace_back(escaped(last), *own.begin());
    }
  }
  for (const auto& [module, value] : values) {
    if (by_last_part[detail::last_part(module)].size() > 1 && value != written.value) {
      written.pattern.emplace_back(key_of(module, modules), value);
    }
  }
  return written;
}

/// `kept`, where it says these values; else what does.
template <typename T>
Written<T> keep_or_compose(const ByModule<T>& values, Written<T> kept) {
  for (const auto& [module, value] : values) {
    if (detail::pattern_value(kept.pattern, module, kept.value) != value) {
      return compose(values);
    }
  }
  return kept;
}

/// The alpha that makes `scale` at that rank: that of the folder where it does; else to 15 digits, as the 16th is the
/// division's rounding.
double alpha_of(double scale, int64_t rank, Scaling scaling, const LowRankOptions& read) {
  if (scaling_factor(scaling, read.alpha(), rank) == scale) {
    return read.alpha();
  }
  char text[40];
  std::snprintf(text, sizeof(text), "%.15g", scale / scaling_factor(scaling, 1.0, rank));
  return std::strtod(text, nullptr);
}

/// Throws for a rank that no reader takes, or an alpha that float32 lacks.
void check_options(const std::string& module, const LowRankChange& change, int64_t rank, double alpha) {
  detail::check_rank(module, rank, change.a.size(1), change.b.size(0));
  TORCH_CHECK_VALUE(
      std::abs(alpha) <= static_cast<double>(std::numeric_limits<float>::max()), module, ": its alpha, ", alpha,
      ", is beyond float32");
}

at::Tensor to_float(const std::string& module, const at::Tensor& factor) {
  at::Tensor rounded = factor.to(at::kFloat).contiguous();
  TORCH_CHECK_VALUE(
      at::isfinite(rounded).all().item<bool>(), module, ": its factors, at the scale that is asked for, are beyond ",
      "float32");
  return rounded;
}

/// The change in fp32 at another scale. What that changes is added to `errors`.
LowRankChange rounded(const std::string& module, const LowRankChange& exact, double scale, detail::ErrorSum& errors) {
  constexpr double kSame = 1e-14; // the rounding of scales: it changes no value of B in fp32
  const double ratio = exact.scale == scale ? 1.0 : exact.scale / scale;
  const bool same = std::abs(ratio - 1.0) < kSame;
  LowRankChange written = exact;
  written.scale = same ? exact.scale : scale;
  written.a = to_float(module, exact.a);
  written.b = to_float(module, same ? exact.b : exact.b.to(at::kDouble) * ratio);
  if (same && exact.a.scalar_type() == at::kFloat && exact.b.scalar_type() == at::kFloat) {
    errors.add(module, 0.0, detail::norm_squared(exact));
    return written;
  }
  // s′·B′·A′ − s·B·A = [s′·B′ − s·B, s·B]·[A′; A′ − A], whose terms are small each.
  const at::Tensor b = exact.b.to(at::kDouble) * exact.scale;
  const at::Tensor a = written.a.to(at::kDouble);
  const double error = detail::product_norm_squared(
      at::cat({written.b.to(at::kDouble) * written.scale - b, b}, 1), at::cat({a, a - exact.a}));
  errors.add(module, error, detail::norm_squared(exact));
  return written;
}

std::string config_text(
    const LowRankFolder& adapter, Scaling scaling, const Written<int64_t>& rank, const Written<double>& alpha) {
  LowRankOptions low_rank = adapter.options.low_rank();
  low_rank.rank(rank.value).alpha(alpha.value).scaling(scaling).initializer(nullptr);
  JsonFields fields;
  detail::json_of(fields) = detail::json_of(JsonObject::parse(adapter.path / detail::kConfigFile, adapter.config));
  detail::LowRankKind(low_rank, rank.pattern, alpha.pattern).write(fields);
  const JsonObject read = JsonObject::parse(adapter.path / detail::kConfigFile, adapter.config);
  for (const char* field : {"loftq_config", "eva_config", "corda_config", "lora_ga_config"}) { // of starts
    if (!read.is_off(field)) {
      fields.remove(field);
    }
  }
  return fields.text();
}

} // namespace

ChangeError save_low_rank_folder(
    const LowRankFolder& adapter, const std::filesystem::path& folder, const SaveLowRankOptions& save) {
  TORCH_CHECK_VALUE(!adapter.modules.empty(), "an adapter of no module cannot be saved");
  TORCH_CHECK_VALUE(
      !save.alpha() || (std::isfinite(*save.alpha()) && *save.alpha() != 0.0),
      "alpha must be finite and not 0: ", save.alpha().value_or(0.0));
  const LowRankOptions& read = adapter.options.low_rank();
  const Scaling scaling = save.scaling().value_or(read.scaling());
  ByModule<int64_t> ranks;
  int64_t largest = 0;
  for (const auto& [module, change] : adapter.modules) {
    ranks[module] = change.rank();
    largest = std::max(largest, change.rank());
  }
  ByModule<double> alphas;
  for (auto& [module, rank] : ranks) {
    rank = save.uniform() ? largest : rank;
    const LowRankOptions own = adapter.options.for_module(module);
    alphas[module] = save.alpha().value_or(alpha_of(adapter.modules.at(module).scale, rank, scaling, own));
  }
  if (save.uniform()) {
    ByModule<double> some = alphas; // an alpha of 0 would serve no other module
    std::erase_if(some, [](const auto& each) { return each.second == 0.0; });
    const double common = some.empty() ? 0.0 : most_frequent(some);
    for (auto& [module, alpha] : alphas) {
      alpha = common;
    }
  }
  detail::ErrorSum errors;
  std::map<std::string, at::Tensor> tensors = adapter.others;
  for (const auto& [module, change] : adapter.modules) {
    check_options(module, change, ranks[module], alphas[module]);
    const double scale = scaling_factor(scaling, alphas[module], ranks[module]);
    const LowRankChange written = detail::padded(rounded(module, change, scale, errors), ranks[module]);
    const std::string name = detail::kBasePrefix + module;
    tensors[name + ".lora_A.weight"] = written.a;
    tensors[name + ".lora_B.weight"] = written.b;
    if (written.magnitude.defined()) {
      tensors[name + ".lora_magnitude_vector"] = to_float(module, written.magnitude);
    }
  }
  Written<int64_t> rank{read.rank(), adapter.options.rank_pattern()};
  Written<double> alpha{read.alpha(), adapter.options.alpha_pattern()};
  rank = save.uniform() ? compose(ranks) : keep_or_compose(ranks, rank);
  alpha = save.uniform() || save.alpha() ? compose(alphas) : keep_or_compose(alphas, alpha);
  detail::write_adapter_files(folder, config_text(adapter, scaling, rank, alpha), tensors);
  return errors.total();
}

} // namespace rora
