#include <rora/adapters/attach.h>

#include "attachment.h"
#include "attention_attachment.h"
#include "module_matching.h"
#include "rank_choice.h"
#include "rows_attachment.h"
#include "slots.h"

#include <rora/model/causal_lm.h>
#include <rora/model/embedding.h>

#include <c10/util/Exception.h>
#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <type_traits>

namespace rora {
namespace {

using detail::NamedProjection;

std::vector<NamedProjection> projections(const torch::nn::Module& model) {
  TORCH_CHECK_VALUE(
      model.as<ProjectionImpl>() == nullptr,
      "adapters are looked for in the modules below a model, and this one is a projection itself: it has functions of "
      "its own to attach, merge and detach");
  std::vector<NamedProjection> found;
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    if (auto projection = std::dynamic_pointer_cast<ProjectionImpl>(item.value())) {
      found.emplace_back(item.key(), std::move(projection));
    }
  }
  return found;
}

/// Throws where an embedding is a target: there are no low-rank adapters of one here.
void check_embeddings(const AdapterOptions& options, const std::vector<std::string>& embeddings) {
  if (options.target_modules().all_linear) {
    return;
  }
  auto meant = detail::selected(options.target_modules(), embeddings);
  if (!options.exclude_modules().empty()) {
    const auto excluded = detail::selected(options.exclude_modules(), embeddings);
    std::erase_if(meant, [&](const std::string& each) {
      return std::find(excluded.begin(), excluded.end(), each) != excluded.end();
    });
  }
  TORCH_CHECK_VALUE(
      meant.empty(), "target_modules means ", meant.front(),
      ", an embedding, of which there are no such adapters here: ",
      "modules_to_save trains it as a whole, trainable_token_indices some of its rows");
}

/// Takes out of the chosen modules those that are trained themselves, as PEFT does.
void leave_out_trained_rows(std::vector<std::string>& chosen, const std::vector<detail::RowsAttachment>& rows) {
  for (const detail::RowsAttachment& each : rows) {
    const auto found = std::find(chosen.begin(), chosen.end(), each.module);
    if (found != chosen.end()) {
      TORCH_CHECK_VALUE(
          !each.tokens, each.module,
          " is a target module and has rows of tokens trained by trainable_token_indices: it ", "has one adapter");
      chosen.erase(found);
    }
  }
  TORCH_CHECK_VALUE(!chosen.empty(), "modules_to_save leaves none of the target modules");
}

/// Throws where nothing holds an adapter of that name.
void require_attached(const torch::nn::Module& model, const std::string& name) {
  bool found = false;
  detail::for_each_slot(
      model, [&](const std::string&, const auto& slot) { found = found || slot.adapter(name) != nullptr; });
  TORCH_CHECK_VALUE(found, "no adapter named '", name, "' is attached");
}

/// Throws where any of the projections is merged: `what` is then not to be done half-way.
void require_unmerged(const std::vector<NamedProjection>& projections, const std::string& what) {
  for (const auto& [module, projection] : projections) {
    TORCH_CHECK_VALUE(!projection->merged(), "adapters are merged: unmerge them before ", what);
  }
}

} // namespace

namespace detail {

std::vector<NamedProjection> projections_with(const torch::nn::Module& model, const std::string& name) {
  std::vector<NamedProjection> found;
  for (auto& each : projections(model)) {
    if (each.second->adapter(name)) {
      found.push_back(std::move(each));
    }
  }
  TORCH_CHECK_VALUE(!found.empty(), "no adapter named '", name, "' is attached");
  return found;
}

void check_attachable(const torch::nn::Module& model, const std::string& name) {
  TORCH_CHECK_VALUE(
      !name.empty() && name.find('.') == std::string::npos, "'", name,
      "' cannot name an adapter: it must not be empty or hold a dot");
  for_each_slot(model, [&](const std::string&, const auto& slot) {
    TORCH_CHECK_VALUE(!slot.adapter(name), "an adapter named '", name, "' is attached already");
  });
  require_unmerged(projections(model), "attaching others");
}

std::vector<Attachment> plan_attachments(const torch::nn::Module& model, const AdapterOptions& options) {
  std::vector<std::string> names;
  std::vector<std::string> embeddings;
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    if (item.value()->as<EmbeddingImpl>() != nullptr) {
      embeddings.push_back(item.key());
    } else if (item.value()->as<ProjectionImpl>() != nullptr || item.value()->as<torch::nn::LinearImpl>() != nullptr) {
      names.push_back(item.key());
    }
  }
  const std::vector<RowsAttachment> rows = plan_rows(model, options);
  for (const RowsAttachment& each : rows) {
    std::erase(embeddings, each.module);
    if (std::find(names.begin(), names.end(), each.module) == names.end()) {
      names.push_back(each.module); // a target, but none that gets an adapter of the kind
    }
  }
  check_embeddings(options, embeddings);
  const auto kind = options.resolved_kind();
  auto chosen = targeted_modules(options, names);
  leave_out_trained_rows(chosen, rows);
  const auto modules = model.named_modules("", /*include_self=*/false);
  std::vector<Attachment> plan;
  for (const std::string& module : chosen) {
    auto projection = std::dynamic_pointer_cast<ProjectionImpl>(modules[module]);
    TORCH_CHECK_VALUE(
        projection != nullptr, module,
        " is a torch::nn::Linear, whose forward is not virtual and cannot run an adapter: ",
        "use rora::Projection or rora::RoRALinear in its place");
    kind->validate(module, *projection);
    plan.push_back({module, std::move(projection)});
  }
  return plan;
}

void make_adapters(
    std::vector<Attachment>& plan, const AdapterOptions& options,
    const std::function<WeightStatistics(const std::string& module)>& statistics) {
  const auto kind = options.resolved_kind();
  const auto config = std::make_shared<const AttachedOptions>(options);
  for (Attachment& each : plan) {
    each.adapter = kind->make(each.module, *each.projection, statistics(each.module));
    each.adapter->config = config;
  }
}

void attach(const std::vector<Attachment>& plan, const std::string& name) {
  for (const Attachment& each : plan) {
    each.projection->attach(name, each.adapter);
  }
}

} // namespace detail

std::vector<std::string> target_modules(const torch::nn::Module& model, const AdapterOptions& options) {
  std::vector<std::string> names;
  if (detail::attention_kind(options)) {
    for (const AttentionSlot& each : detail::plan_attentions(model, options)) {
      names.push_back(each.module);
    }
    return names;
  }
  for (const detail::Attachment& each : detail::plan_attachments(model, options)) {
    names.push_back(each.module);
  }
  return names;
}

std::vector<std::string> attach_adapters(
    torch::nn::Module& model, const AdapterOptions& options, const std::string& name,
    const std::map<std::string, WeightStatistics>& statistics) {
  detail::check_attachable(model, name);
  if (detail::attention_kind(options)) {
    auto attentions = detail::plan_attentions(model, options);
    detail::make_adapters(attentions, options);
    detail::attach(model, attentions, name);
    return target_modules(model, options);
  }
  std::vector<detail::Attachment> plan = detail::plan_attachments(model, options);
  std::map<std::string, WeightStatistics> own;
  for (const detail::Attachment& each : plan) {
    const auto found = statistics.find(each.module);
    own[each.module] = found == statistics.end() ? WeightStatistics() : found->second;
    options.resolved_kind()->check_statistics(each.module, *each.projection, own[each.module]);
  }
  const AdapterOptions with_ranks = detail::choose_ranks(plan, options, own);
  const auto statistics_of = [&](const std::string& module) { return own.at(module); };
  std::vector<std::string> names;
  for (const detail::Attachment& each : plan) {
    names.push_back(each.module);
  }
  auto rows = detail::plan_rows(model, options);
  detail::make_adapters(plan, with_ranks, statistics_of);
  detail::make_rows(rows);
  detail::attach_rows(model, rows, name); // first: a head that cannot be untied is noticed here
  detail::attach(plan, name);
  return names;
}

void detach_adapters(torch::nn::Module& model, const std::string& name) {
  require_attached(model, name);
  for (const auto& [module, projection] : projections(model)) {
    TORCH_CHECK_VALUE(
        !projection->merged() || projection->active_name() != name, "the adapters named '", name,
        "' are merged: unmerge them before detaching them");
  }
  detail::for_each_slot(model, [&](const std::string&, auto& slot) {
    if (slot.adapter(name)) {
      slot.detach(name);
    }
  });
  for (const auto& module : model.modules()) {
    if (auto* causal = module->as<CausalLMImpl>()) {
      causal->tie_head_again();
    }
  }
}

void activate_adapters(torch::nn::Module& model, const std::string& name) {
  require_attached(model, name);
  require_unmerged(projections(model), "activating others");
  detail::for_each_slot(
      model, [&](const std::string&, auto& slot) { slot.activate(slot.adapter(name) ? name : std::string()); });
}

void check_mergeable(const torch::nn::Module& model) {
  detail::for_each_slot(model, [](const std::string& module, const auto& slot) {
    const auto* adapter = slot.active_adapter();
    bool mergeable = adapter == nullptr;
    if constexpr (std::is_same_v<decltype(adapter), const Adapter*>) {
      mergeable = mergeable || adapter->can_merge();
    }
    TORCH_CHECK_VALUE(mergeable, module, ": no weight does what its adapter does: it cannot be merged");
  });
}

void merge_adapters(torch::nn::Module& model) {
  check_mergeable(model);
  for (const auto& [module, projection] : projections(model)) {
    projection->merge();
  }
}

void unmerge_adapters(torch::nn::Module& model) {
  for (auto& [module, projection] : projections(model)) {
    projection->unmerge();
  }
}

std::vector<std::pair<std::string, at::Tensor>> named_adapter_parameters(
    const torch::nn::Module& model, const std::string& name) {
  require_attached(model, name);
  std::vector<std::pair<std::string, at::Tensor>> parameters;
  detail::for_each_slot(model, [&](const std::string& module, const auto& slot) {
    if (const auto adapter = slot.adapter(name)) {
      for (const auto& item : adapter->named_parameters()) {
        parameters.emplace_back(module + "." + item.key(), item.value());
      }
    }
  });
  return parameters;
}

std::vector<at::Tensor> adapter_parameters(const torch::nn::Module& model, const std::string& name) {
  std::vector<at::Tensor> parameters;
  for (const auto& [key, tensor] : named_adapter_parameters(model, name)) {
    parameters.push_back(tensor);
  }
  return parameters;
}

} // namespace rora
