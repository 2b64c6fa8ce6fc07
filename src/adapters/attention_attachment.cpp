#include "attention_attachment.h"

#include "attachment.h"
#include "slots.h"

#include <rora/model/decoder_layer.h>

#include <c10/util/Exception.h>

namespace rora::detail {
namespace {

std::vector<AttentionSlot> attentions(const torch::nn::Module& model) {
  std::vector<AttentionSlot> found;
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    if (auto attention = std::dynamic_pointer_cast<AttentionImpl>(item.value())) {
      found.push_back({item.key(), std::move(attention)});
    }
  }
  return found;
}

/// Throws where `options` say which modules are meant: an attention's kind means every attention.
void check_selects_nothing(const AdapterOptions& options) {
  const ModuleSelection& targets = options.target_modules();
  TORCH_CHECK_VALUE(
      (targets.empty() || targets == ModuleSelection(kDefaultTargetModules)) && options.exclude_modules().empty() &&
          options.layers_to_transform().empty() && options.modules_to_save().empty() &&
          options.trainable_token_indices().empty() && !options.ensure_weight_tying(),
      "adapters of the kind ", options.resolved_kind()->peft_type(), " are of every attention: target_modules, ",
      "exclude_modules, layers_to_transform, modules_to_save and trainable_token_indices do not go with them");
}

const AttachedOptions* attached_options(const AttentionSlot& slot) {
  return dynamic_cast<const AttachedOptions*>(slot.adapter->config.get());
}

} // namespace

std::shared_ptr<const AttentionAdapterKind> attention_kind(const AdapterOptions& options) {
  return std::dynamic_pointer_cast<const AttentionAdapterKind>(options.resolved_kind());
}

std::vector<AttentionSlot> plan_attentions(const torch::nn::Module& model, const AdapterOptions& options) {
  check_selects_nothing(options);
  std::vector<AttentionSlot> plan = attentions(model);
  const auto kind = attention_kind(options);
  TORCH_CHECK_VALUE(
      !plan.empty(), "the model has no attention that adapters of the kind ", kind->peft_type(),
      " could be attached to");
  kind->check(plan);
  return plan;
}

void make_adapters(std::vector<AttentionSlot>& plan, const AdapterOptions& options) {
  const auto config = std::make_shared<const AttachedOptions>(options);
  const auto kind = attention_kind(options);
  for (AttentionSlot& each : plan) {
    each.adapter = kind->make_adapter(*each.attention);
    each.adapter->config = config;
  }
}

void attach(const torch::nn::Module& model, const std::vector<AttentionSlot>& plan, const std::string& name) {
  for (const AttentionSlot& each : plan) {
    each.adapter->train(model.is_training());
    each.attention->attach(name, each.adapter);
  }
}

std::vector<AttentionSlot> attached_attentions(const torch::nn::Module& model, const std::string& name) {
  std::vector<AttentionSlot> attached;
  for (AttentionSlot& each : attentions(model)) {
    each.adapter = each.attention->adapter(name);
    if (each.adapter != nullptr) {
      attached.push_back(std::move(each));
    }
  }
  return attached;
}

std::optional<AdapterOptions> saved_attention_options(const torch::nn::Module& model, const std::string& name) {
  const std::vector<AttentionSlot> attached = attached_attentions(model, name);
  const AttachedOptions* options = attached.empty() ? nullptr : attached_options(attached.front());
  if (options == nullptr) {
    return std::nullopt;
  }
  for_each_slot(model, [&](const std::string& module, const auto& slot) {
    const auto adapter = slot.adapter(name);
    TORCH_CHECK_VALUE(
        adapter == nullptr || adapter->config.get() == options, "the adapter '", name, "' of ", module,
        " was not attached with those of attentions: one folder cannot hold it beside them");
  });
  TORCH_CHECK_VALUE(
      attached.size() == attentions(model).size(), "an attention has no adapter named '", name,
      "': one folder holds one of each attention");
  AdapterOptions saved = options->options;
  attention_kind(saved)->as_saved(attached)->put_into(saved);
  return saved;
}

} // namespace rora::detail
