#pragma once

#include <rora/adapters/adapter_options.h>
#include <rora/core/low_rank_adapter.h>
#include <rora/core/projection.h>

#include <memory>
#include <string>
#include <vector>

namespace rora::detail {

/// A projection that `AdapterOptions` mean, and its adapter's options, patterns applied.
struct Attachment {
  std::string module;
  std::shared_ptr<ProjectionImpl> projection;
  LowRankOptions options;
  std::shared_ptr<LowRankAdapter> adapter = nullptr; ///< once it is made
};

/// Throws `std::invalid_argument` where `model` cannot take adapters of that name, whatever their options.
void check_attachable(const torch::nn::Module& model, const std::string& name);

/// What `options` mean in `model`, adapters not yet made: sizes in a file may lie. Throws `std::invalid_argument` for a
/// target that matches nothing, a pattern that is no regular expression, and options out of range.
std::vector<Attachment> plan_attachments(const torch::nn::Module& model, const AdapterOptions& options);

void make_adapters(std::vector<Attachment>& plan);

/// Puts the adapters into their slots and makes them active, in the mode, training or not, of `model`.
void attach(const torch::nn::Module& model, const std::vector<Attachment>& plan, const std::string& name);

} // namespace rora::detail
