#pragma once

#include <rora/adapters/adapter_kind.h>
#include <rora/adapters/adapter_options.h>
#include <rora/core/projection.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace rora::detail {

/// What every adapter of one attachment was attached with.
struct AttachedOptions : AdapterConfig {
  explicit AttachedOptions(AdapterOptions options) : options(std::move(options)) {}
  AdapterOptions options;
};

/// A projection that `AdapterOptions` mean.
struct Attachment {
  std::string module;
  std::shared_ptr<ProjectionImpl> projection;
  std::shared_ptr<Adapter> adapter = nullptr; ///< once it is made
};

/// What stands before a module's name in adapter_model.safetensors.
inline constexpr const char* kBasePrefix = "base_model.model.";

using NamedProjection = std::pair<std::string, std::shared_ptr<ProjectionImpl>>;

/// The projections that hold an adapter of that name. Throws `c10::ValueError` where there are none.
std::vector<NamedProjection> projections_with(const torch::nn::Module& model, const std::string& name);

/// Throws `c10::ValueError` where `model` cannot take adapters of that name, whatever their options.
void check_attachable(const torch::nn::Module& model, const std::string& name);

/// What `options` mean in `model`, adapters not yet made: sizes in a file may lie. Throws `c10::ValueError` for a
/// target that matches nothing or a `torch::nn::Linear`, a pattern that is no regular expression, and options out of
/// range.
std::vector<Attachment> plan_attachments(const torch::nn::Module& model, const AdapterOptions& options);

/// Makes the adapters that are planned, which `options` are of.
void make_adapters(
    std::vector<Attachment>& plan, const AdapterOptions& options,
    const std::function<WeightStatistics(const std::string& module)>& statistics);

/// Puts the adapters into their slots and makes them active, in the mode, training or not, of their projections.
void attach(const std::vector<Attachment>& plan, const std::string& name);

/// The options that attach the adapters of that name as they are, in a folder: their own rank, alpha, scaling … where
/// those differ from what was attached, and their modules' whole names where the selection that was attached means
/// others.
AdapterOptions saved_options(const torch::nn::Module& model, const std::string& name, bool portable);

} // namespace rora::detail
