#include "prefix_tuning.h"

#include <rora/model/decoder_layer.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

namespace rora::detail {
namespace {

constexpr const char* kTensor = "prompt_embeddings";
constexpr const char* kZero = "zero";

int64_t token_dim(const AttentionSlot& slot) {
  return slot.attention->k_proj->out_features();
}

PrefixSizes sizes_of(const std::vector<AttentionSlot>& attentions) {
  PrefixSizes sizes;
  sizes.num_layers = static_cast<int64_t>(attentions.size());
  const AttentionSlot& first = attentions.front();
  for (const AttentionSlot& each : attentions) {
    if (token_dim(each) != token_dim(first)) {
      return sizes;
    }
  }
  sizes.token_dim = token_dim(first);
  sizes.num_attention_heads = token_dim(first) / first.attention->head_dim();
  return sizes;
}

std::optional<int64_t> read_size(const JsonObject& config, const std::string& field) {
  return config.has(field) ? std::optional(config.integer(field)) : std::nullopt;
}

std::shared_ptr<const AdapterKind> parse(const JsonObject& config) {
  PrefixTuningOptions options;
  options.num_virtual_tokens(config.integer("num_virtual_tokens"));
  if (options.num_virtual_tokens() < 1) {
    config.fail("num_virtual_tokens", "must be at least 1, not " + std::to_string(options.num_virtual_tokens()));
  }
  if (config.has("init_weights") && config.string("init_weights") != kZero) {
    config.fail("init_weights", "must be null or zero, not " + config.text("init_weights"));
  }
  options.initial_std(config.has("init_weights") ? 0.0 : 1.0);
  if (const int64_t submodules = config.integer("num_transformer_submodules", 1); submodules != 1) {
    config.fail("num_transformer_submodules", "must be 1 of a decoder, not " + std::to_string(submodules));
  }
  return std::make_shared<PrefixTuningKind>(
      options,
      PrefixSizes{
          read_size(config, "num_layers"), read_size(config, "num_attention_heads"), read_size(config, "token_dim")});
}

void set_size(JsonFields& fields, const std::string& field, const std::optional<int64_t>& size) {
  if (size) {
    fields.set(field, *size);
  } else {
    fields.set(field, nullptr);
  }
}

PrefixAdapter& prefix_of(const AttentionSlot& slot) {
  auto* adapter = dynamic_cast<PrefixAdapter*>(slot.adapter.get());
  TORCH_CHECK_VALUE(
      adapter != nullptr, slot.module, ": its adapter is no prefix: one folder cannot hold it beside prefixes");
  return *adapter;
}

} // namespace

PrefixTuningKind::PrefixTuningKind(const PrefixTuningOptions& options, const PrefixSizes& sizes)
    : options_(options), sizes_(sizes) {
  options_.validate();
}

std::string PrefixTuningKind::peft_type() const {
  return "PREFIX_TUNING";
}

void PrefixTuningKind::check(const std::vector<AttentionSlot>& attentions) const {
  const PrefixSizes model = sizes_of(attentions);
  const auto check = [](const char* field, const std::optional<int64_t>& own, const std::optional<int64_t>& of_model) {
    TORCH_CHECK_VALUE(
        !own || own == of_model, field, " is ", own.value_or(0), ", and the model has ",
        of_model ? std::to_string(*of_model) : "another in each layer");
  };
  check("num_layers", sizes_.num_layers, model.num_layers);
  check("num_attention_heads", sizes_.num_attention_heads, model.num_attention_heads);
  check("token_dim", sizes_.token_dim, model.token_dim);
}

std::shared_ptr<AttentionAdapter> PrefixTuningKind::make_adapter(const AttentionImpl& attention) const {
  return std::make_shared<PrefixAdapter>(attention, options_);
}

std::vector<AdapterTensor> PrefixTuningKind::stored(const std::vector<AttentionSlot>& attentions) const {
  int64_t columns = 0;
  for (const AttentionSlot& each : attentions) {
    columns += 2 * token_dim(each);
  }
  return {{kTensor, {options_.num_virtual_tokens(), columns}}};
}

std::vector<at::Tensor> PrefixTuningKind::store(const std::vector<AttentionSlot>& attached) const {
  std::vector<at::Tensor> layers;
  for (const AttentionSlot& each : attached) {
    layers.push_back(prefix_of(each).key_value_prefix.detach().flatten(1));
  }
  return {at::cat(layers, 1)};
}

void PrefixTuningKind::restore(
    const std::vector<at::Tensor>& tensors, const std::vector<AttentionSlot>& attached) const {
  at::NoGradGuard no_grad;
  int64_t column = 0;
  for (const AttentionSlot& each : attached) {
    at::Tensor own = prefix_of(each).key_value_prefix;
    const int64_t columns = own.numel() / own.size(0);
    own.copy_(tensors.front().narrow(1, column, columns).reshape(own.sizes()));
    column += columns;
  }
}

void PrefixTuningKind::write(JsonFields& config) const {
  config.set("num_virtual_tokens", options_.num_virtual_tokens());
  set_size(config, "token_dim", sizes_.token_dim);
  config.set("num_transformer_submodules", int64_t{1});
  set_size(config, "num_attention_heads", sizes_.num_attention_heads);
  set_size(config, "num_layers", sizes_.num_layers);
  set_size(config, "encoder_hidden_size", sizes_.token_dim);
  config.set("prefix_projection", false);
  if (options_.initial_std() == 0.0) {
    config.set("init_weights", kZero);
  } else {
    config.set("init_weights", nullptr);
  }
}

void PrefixTuningKind::describe(JsonFields& fields) const {
  fields.set("peft_type", peft_type());
  fields.set("num_virtual_tokens", options_.num_virtual_tokens());
}

std::shared_ptr<const AdapterKind> PrefixTuningKind::as_saved(const std::vector<AttentionSlot>& attached) const {
  const int64_t length = prefix_of(attached.front()).prefix_length();
  for (const AttentionSlot& each : attached) {
    TORCH_CHECK_VALUE(
        prefix_of(each).prefix_length() == length, each.module, ": its prefix has ", prefix_of(each).prefix_length(),
        " tokens and others have ", length, ": one folder holds one length");
  }
  return std::make_shared<PrefixTuningKind>(
      PrefixTuningOptions(options_).num_virtual_tokens(length), sizes_of(attached));
}

AdapterKindEntry prefix_tuning_entry() {
  return {
      "PREFIX_TUNING",
      {"num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim", "num_transformer_submodules",
       "init_weights", "encoder_hidden_size"}, // of prefix_projection, which is refused
      parse};
}

} // namespace rora::detail
