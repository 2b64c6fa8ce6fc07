#include <rora/adapters/attach.h>

#include "attachment.h"
#include "module_matching.h"

#include <stdexcept>

namespace rora {
namespace {

using NamedProjection = std::pair<std::string, std::shared_ptr<ProjectionImpl>>;

std::vector<NamedProjection> projections(const torch::nn::Module& model) {
  std::vector<NamedProjection> found;
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    if (auto projection = std::dynamic_pointer_cast<ProjectionImpl>(item.value())) {
      found.emplace_back(item.key(), std::move(projection));
    }
  }
  return found;
}

/// The projections that hold an adapter of that name. Throws where there are none.
std::vector<NamedProjection> projections_with(const torch::nn::Module& model, const std::string& name) {
  std::vector<NamedProjection> found;
  for (auto& each : projections(model)) {
    if (each.second->adapter(name)) {
      found.push_back(std::move(each));
    }
  }
  if (found.empty()) {
    throw std::invalid_argument("no adapter named '" + name + "' is attached");
  }
  return found;
}

/// Throws where any of the projections is merged: `what` is then not to be done half-way.
void require_unmerged(const std::vector<NamedProjection>& projections, const std::string& what) {
  for (const auto& [module, projection] : projections) {
    if (projection->merged()) {
      throw std::invalid_argument("adapters are merged: unmerge them before " + what);
    }
  }
}

/// Throws `std::invalid_argument` for options that no adapter can have.
void check_options(const detail::Attachment& attachment) {
  const LowRankOptions& options = attachment.options;
  try {
    options.validate();
    scaling_factor(options.scaling(), options.alpha(), options.rank());
  } catch (const c10::ValueError& error) {
    throw std::invalid_argument(attachment.module + ": " + error.what_without_backtrace());
  }
}

} // namespace

namespace detail {

void check_attachable(const torch::nn::Module& model, const std::string& name) {
  if (name.empty() || name.find('.') != std::string::npos) {
    throw std::invalid_argument("'" + name + "' cannot name an adapter: it must not be empty or hold a dot");
  }
  const auto existing = projections(model);
  for (const auto& [module, projection] : existing) {
    if (projection->adapter(name)) {
      throw std::invalid_argument("an adapter named '" + name + "' is attached already");
    }
  }
  require_unmerged(existing, "attaching others");
}

std::vector<Attachment> plan_attachments(const torch::nn::Module& model, const AdapterOptions& options) {
  const auto existing = projections(model);
  std::vector<std::string> names;
  for (const auto& [module, projection] : existing) {
    names.push_back(module);
  }
  const auto chosen = targeted_modules(options, names);
  std::vector<Attachment> plan;
  for (const auto& [module, projection] : existing) {
    if (plan.size() < chosen.size() && module == chosen[plan.size()]) {
      plan.push_back({module, projection, options.for_module(module)});
      check_options(plan.back());
    }
  }
  return plan;
}

void make_adapters(std::vector<Attachment>& plan) {
  for (Attachment& each : plan) {
    each.adapter = std::make_shared<LowRankAdapter>(*each.projection, each.options);
  }
}

void attach(const torch::nn::Module& model, const std::vector<Attachment>& plan, const std::string& name) {
  for (const Attachment& each : plan) {
    each.adapter->train(model.is_training());
    each.projection->attach(name, each.adapter);
  }
}

} // namespace detail

std::vector<std::string> attach_adapters(
    torch::nn::Module& model,
    const AdapterOptions& options,
    const std::string& name) {
  detail::check_attachable(model, name);
  std::vector<detail::Attachment> plan = detail::plan_attachments(model, options);
  detail::make_adapters(plan);
  detail::attach(model, plan, name);
  std::vector<std::string> names;
  for (const detail::Attachment& each : plan) {
    names.push_back(each.module);
  }
  return names;
}

void detach_adapters(torch::nn::Module& model, const std::string& name) {
  const auto holders = projections_with(model, name);
  for (const auto& [module, projection] : holders) {
    if (projection->merged() && projection->active_name() == name) {
      throw std::invalid_argument("the adapters named '" + name + "' are merged: unmerge them before detaching them");
    }
  }
  for (const auto& [module, projection] : holders) {
    projection->detach(name);
  }
}

void activate_adapters(torch::nn::Module& model, const std::string& name) {
  projections_with(model, name);
  const auto existing = projections(model);
  require_unmerged(existing, "activating others");
  for (const auto& [module, projection] : existing) {
    projection->activate(projection->adapter(name) ? name : "");
  }
}

void merge_adapters(torch::nn::Module& model) {
  for (auto& [module, projection] : projections(model)) {
    projection->merge();
  }
}

void unmerge_adapters(torch::nn::Module& model) {
  for (auto& [module, projection] : projections(model)) {
    projection->unmerge();
  }
}

std::vector<std::pair<std::string, at::Tensor>> named_adapter_parameters(
    const torch::nn::Module& model,
    const std::string& name) {
  std::vector<std::pair<std::string, at::Tensor>> parameters;
  for (const auto& [module, projection] : projections_with(model, name)) {
    for (const auto& item : projection->adapter(name)->named_parameters()) {
      parameters.emplace_back(module + "." + item.key(), item.value());
    }
  }
  return parameters;
}

std::vector<at::Tensor> adapter_parameters(const torch::nn::Module& model, const std::string& name) {
  std::vector<at::Tensor> parameters;
  for (const auto& [key, tensor] : named_adapter_parameters(model, name)) {
    parameters.push_back(tensor);
  }
  return parameters;
}

ParameterCounts count_parameters(const torch::nn::Module& model) {
  ParameterCounts counts;
  for (const at::Tensor& parameter : model.parameters()) {
    counts.total += parameter.numel();
    counts.trainable += parameter.requires_grad() ? parameter.numel() : 0;
  }
  return counts;
}

} // namespace rora
