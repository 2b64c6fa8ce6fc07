#pragma once

#include <rora/adapters/adapter_kind.h>
#include <rora/adapters/adapter_options.h>

#include <torch/nn/module.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rora::detail {

/// The kind of `options` where its adapters are attentions'; null where they are projections'.
std::shared_ptr<const AttentionAdapterKind> attention_kind(const AdapterOptions& options);

/// The attentions of `model`, adapters not yet made: sizes in a file may lie. Throws `c10::ValueError` for a model
/// without any, for one that the kind cannot have, and for options that choose among modules.
std::vector<AttentionSlot> plan_attentions(const torch::nn::Module& model, const AdapterOptions& options);

/// Makes the adapters that are planned, which `options` are of.
void make_adapters(std::vector<AttentionSlot>& plan, const AdapterOptions& options);

/// Puts the adapters into their slots and makes them active, in the mode, training or not, of `model`.
void attach(const torch::nn::Module& model, const std::vector<AttentionSlot>& plan, const std::string& name);

/// The attentions that hold an adapter of that name, with it.
std::vector<AttentionSlot> attached_attentions(const torch::nn::Module& model, const std::string& name);

/// The options that attach the adapters of that name as they are, in a folder. Nothing where no kind attached any to
/// attentions under that name. Throws `c10::ValueError` where one folder cannot hold all that is attached so.
std::optional<AdapterOptions> saved_attention_options(const torch::nn::Module& model, const std::string& name);

} // namespace rora::detail
