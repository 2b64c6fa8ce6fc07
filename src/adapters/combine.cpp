#include <rora/adapters/combine.h>

#include "../checkpoint/json_object.h"
#include "adapter_config.h"
#include "adapter_files.h"
#include "attachment.h"
#include "change_error.h"
#include "initializers/singular_triples.h"

#include <rora/error.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace rora {
namespace {

using Factor = at::Tensor LowRankChange::*;

bool identical(const at::Tensor& x, const at::Tensor& y) {
  return x.scalar_type() == y.scalar_type() && x.sizes() == y.sizes() && at::equal(x, y);
}

/// A factor keeps its dtype where no value is rounded.
at::Tensor times(const at::Tensor& factor, double ratio) {
  return ratio == 1.0 ? factor : ratio == -1.0 ? -factor : factor.to(at::kDouble) * ratio;
}

/// Of the changes that have one factor alike makes one, with the sum of their other factors.
void add_sharing(std::vector<LowRankChange>& changes, Factor shared, Factor summed) {
  std::vector<LowRankChange> distinct;
  for (const LowRankChange& each : changes) {
    const auto found = std::find_if(distinct.begin(), distinct.end(), [&](const LowRankChange& other) {
      return identical(other.*shared, each.*shared);
    });
    if (found == distinct.end()) {
      distinct.push_back(each);
    } else {
      at::Tensor& sum = (*found).*summed;
      sum = sum.to(at::kDouble) + (each.*summed).to(at::kDouble) * (each.scale / found->scale);
    }
  }
  changes = std::move(distinct);
}

/// One module's change in one of the adapters.
struct Part {
  LowRankChange change;
  double weight = 0.0;
};

/// The weighted sum of one module's changes.
LowRankChange sum_of(const std::vector<Part>& parts, CombinedAdapter& counts) {
  std::vector<LowRankChange> changes;
  double scale = 0.0; // of the result: that of the first change that is there
  for (const Part& each : parts) {
    if (each.weight != 0.0 && each.change.scale != 0.0) {
      scale = changes.empty() ? std::abs(each.change.scale) : scale;
      changes.push_back(each.change);
      changes.back().scale *= each.weight;
    }
  }
  if (changes.empty()) {
    LowRankChange nothing = parts.front().change;
    nothing.b = at::zeros_like(nothing.b);
    return nothing;
  }
  if (changes.size() > 1) {
    add_sharing(changes, &LowRankChange::a, &LowRankChange::b);
    const bool shares_a = changes.size() == 1;
    add_sharing(changes, &LowRankChange::b, &LowRankChange::a);
    ++(changes.size() > 1 ? counts.side_by_side : shares_a ? counts.shared_a : counts.shared_b);
  }
  std::vector<at::Tensor> a, b;
  for (const LowRankChange& each : changes) {
    a.push_back(each.a);
    b.push_back(times(each.b, each.scale / scale));
  }
  LowRankChange sum;
  sum.a = a.size() == 1 ? a[0] : at::cat(a);
  sum.b = b.size() == 1 ? b[0] : at::cat(b, 1);
  sum.scale = scale;
  return sum;
}

void check_weights(const std::vector<LowRankFolder>& adapters, const std::vector<double>& weights) {
  TORCH_CHECK_VALUE(!adapters.empty(), "there is no adapter to combine");
  TORCH_CHECK_VALUE(
      weights.size() == adapters.size(), weights.size(), " weights are given for ", adapters.size(), " adapters");
  for (const double weight : weights) {
    TORCH_CHECK_VALUE(std::isfinite(weight), "a weight must be finite, not ", weight);
  }
}

/// Throws for an adapter that is more than low-rank changes.
void check_summable(const LowRankFolder& adapter) {
  TORCH_CHECK_VALUE(
      !adapter.options.low_rank().dora(), (adapter.path / detail::kConfigFile).string(), ": use_dora: DoRA adapters ",
      "have no low-rank sum, as each row's factor hangs on W and on the whole change: merge them into weights instead");
  for (const auto& [field, used] :
       {std::pair("modules_to_save", !adapter.options.modules_to_save().empty()),
        std::pair("trainable_token_indices", !adapter.options.trainable_token_indices().empty())}) {
    TORCH_CHECK_VALUE(
        !used, (adapter.path / detail::kConfigFile).string(), ": ", field, ": weights that are trained beside an ",
        "adapter take the base's place and have no sum");
  }
}

void check_shape(const LowRankFolder& adapter, const std::string& module, const LowRankChange& change, const Part& of) {
  const auto text = [](const LowRankChange& each) {
    return "[" + std::to_string(each.b.size(0)) + ", " + std::to_string(each.a.size(1)) + "]";
  };
  if (text(change) != text(of.change)) {
    throw FormatError(
        adapter.path / detail::kWeightsFile,
        module + " changes a weight of " + text(change) + ", and in another adapter one of " + text(of.change) +
            ": they are of different models");
  }
}

/// The adapted head's base weight, which PEFT stores beside its adapter.
void add_base_weights(const LowRankFolder& adapter, CombinedAdapter& combined) {
  for (const auto& [key, tensor] : adapter.others) {
    const auto [found, added] = combined.adapter.others.emplace(key, tensor);
    if (!added && !identical(found->second, tensor)) {
      throw FormatError(
          adapter.path / detail::kWeightsFile, key + " is another adapter's: they are of different models");
    }
  }
}

/// Makes the config mean all of the modules, and name the base.
void complete_config(LowRankFolder& adapter) {
  std::vector<std::string> modules;
  for (const auto& [module, change] : adapter.modules) {
    modules.push_back(module);
  }
  const std::filesystem::path path = adapter.path / detail::kConfigFile;
  JsonFields fields;
  detail::json_of(fields) = detail::json_of(JsonObject::parse(path, adapter.config));
  if (detail::targeted_in_folder(adapter.options, modules) != modules) {
    fields.set("target_modules", modules).set("exclude_modules", nullptr).set("layers_to_transform", nullptr);
    fields.remove("layers_pattern");
  }
  if (!adapter.base_model.empty()) {
    fields.set("base_model_name_or_path", adapter.base_model);
  }
  adapter.config = fields.text();
  adapter.options = detail::parse_adapter_config(path, adapter.config);
}

/// The nearest change of that rank. What it leaves out is added to `errors`.
LowRankChange nearest(const std::string& module, const LowRankChange& change, int64_t rank, detail::ErrorSum& errors) {
  const auto [q_b, r_b] = at::linalg_qr(change.b.to(at::kDouble));
  const auto [q_a, r_a] = at::linalg_qr(change.a.to(at::kDouble).t());
  auto [u, s, vh] = at::linalg_svd(r_b.mm(r_a.t()), /*full_matrices=*/false);
  const at::Tensor signs = detail::signs_of_rows(u.t());
  u = u * signs.t();
  vh = vh * signs;
  const int64_t kept = std::min(rank, s.size(0));
  const double scale_squared = change.scale * change.scale;
  const at::Tensor squares = s.square() * scale_squared;
  errors.add(module, squares.narrow(0, kept, s.size(0) - kept).sum().item<double>(), squares.sum().item<double>());
  const at::Tensor root = s.narrow(0, 0, kept).sqrt();
  LowRankChange reduced = change;
  reduced.b = q_b.mm(u.narrow(1, 0, kept) * root);
  reduced.a = (root.unsqueeze(1) * vh.narrow(0, 0, kept)).mm(q_a.t());
  return detail::padded(reduced, rank); // a rank over the weight's sizes
}

void check_rank(int64_t rank) {
  TORCH_CHECK_VALUE(rank >= 1, "rank must be at least 1, not ", rank);
}

} // namespace

CombinedAdapter combine_adapters(const std::vector<LowRankFolder>& adapters, const std::vector<double>& weights) {
  check_weights(adapters, weights);
  CombinedAdapter combined;
  combined.adapter.path = adapters[0].path;
  combined.adapter.config = adapters[0].config;
  combined.adapter.options = adapters[0].options;
  std::map<std::string, std::vector<Part>> parts;
  for (size_t i = 0; i < adapters.size(); ++i) {
    check_summable(adapters[i]);
    add_base_weights(adapters[i], combined);
    for (const auto& [module, change] : adapters[i].modules) {
      std::vector<Part>& of_module = parts[module];
      if (!of_module.empty()) {
        check_shape(adapters[i], module, change, of_module.front());
      }
      of_module.push_back({change, weights[i]});
    }
    if (combined.adapter.base_model.empty()) {
      combined.adapter.base_model = adapters[i].base_model;
    }
  }
  for (const auto& [module, of_module] : parts) {
    combined.adapter.modules.emplace(module, sum_of(of_module, combined));
  }
  complete_config(combined.adapter);
  return combined;
}

ChangeError reduce_rank(LowRankFolder& adapter, int64_t rank) {
  check_rank(rank);
  detail::ErrorSum errors;
  for (auto& [module, change] : adapter.modules) {
    if (change.rank() <= rank) {
      errors.add(module, 0.0, detail::norm_squared(change));
      continue;
    }
    TORCH_CHECK_VALUE(
        !change.magnitude.defined(), module, ": rank ", change.rank(), " cannot be cut to ", rank, ": with DoRA the ",
        "nearest change hangs on the base's weights");
    change = nearest(module, change, rank, errors);
  }
  return errors.total();
}

void pad_rank(LowRankFolder& adapter, int64_t rank) {
  check_rank(rank);
  for (auto& [module, change] : adapter.modules) {
    change = detail::padded(change, rank);
  }
}

void take_ranks(LowRankFolder& adapter, int64_t count) {
  check_rank(count);
  for (auto& [module, change] : adapter.modules) {
    if (change.rank() <= count) {
      continue;
    }
    TORCH_CHECK_VALUE(
        !change.magnitude.defined(), module, ": with DoRA the first ranks are no adapter by themselves: the magnitude ",
        "is of all");
    const double ratio = static_cast<double>(change.rank()) / static_cast<double>(count);
    const bool standard = adapter.options.low_rank().scaling() == Scaling::kStandard;
    change.scale *= standard ? ratio : std::sqrt(ratio);
    change.a = change.a.narrow(0, 0, count).contiguous();
    change.b = change.b.narrow(1, 0, count).contiguous();
  }
}

} // namespace rora
