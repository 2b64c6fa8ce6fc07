#pragma once

#include <rora/adapters/adapter_options.h>
#include <rora/core/initializer.h>
#include <rora/model/causal_lm.h>

#include <ATen/core/Tensor.h>
#include <torch/arg.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

namespace rora {

/// Weights' statistics by the whole names of their modules.
using StatisticsByModule = std::map<std::string, WeightStatistics>;

/// Rows of tokens, as training reads them.
struct CaptureBatch {
  ModelInput input;
  at::Tensor labels; ///< int64 `[batch, seq]`, `kIgnoreIndex` where there is none
};

struct CaptureOptions {
  /// Batches over which means are taken.
  TORCH_ARG(int64_t, batches) = 8;
  /// Gradients: stop early, from the fourth batch on, once no weight's mean|W ⊙ G| has changed by more than this share
  /// since the batch before (GoRA's adaptive number of batches: 0.1). Weights of one pass stop together. 0: never.
  TORCH_ARG(double, settled) = 0.0;
  /// The most bytes of gradients and moments that are held at once, but for a single weight's; 0: no bound. Weights are
  /// taken in groups that fit, each in a pass of its own over the batches.
  TORCH_ARG(int64_t, memory) = 0;

 public:
  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;
};

/// What the initializer of `options` reads of the weights that they mean, condensed by it:
///
/// - gradients, the mean over the batches of ∂L/∂W with L a batch's mean loss over its labelled tokens;
/// - moments of the inputs at labelled tokens, each such token of all batches counting alike; projections that read the
///   same input share them.
///
/// The model stays as it is, and is in the mode, training or not, that it is in. Nothing of a weight's size stays on
/// the model's device: a gradient leaves it as soon as backward has made it. Statistics are on the CPU. Throws
/// `c10::ValueError` as `target_modules` does, for a gradient or input that is not finite, naming the module, and for
/// batches without a label.
///
/// \code
/// const auto options = rora::AdapterOptions().low_rank(rora::LowRankOptions().rank(8).initializer(rora::gora()));
/// const auto statistics = rora::capture_statistics(model, options, {}, [&](int64_t i) { return batches[i]; });
/// rora::attach_adapters(*model, options, rora::kDefaultAdapter, statistics);
/// \endcode
StatisticsByModule capture_statistics(
    CausalLM model, const AdapterOptions& options, const CaptureOptions& capture,
    const std::function<CaptureBatch(int64_t batch)>& batch);

/// Writes statistics as a safetensors file, whose metadata say what they were `made_from`. Throws `FileError`.
void save_statistics(
    const std::filesystem::path& path, const StatisticsByModule& statistics,
    const std::map<std::string, std::string>& made_from = {});

/// Reads them. Throws `FileError`, and `FormatError` for a file that holds something else, numbers that are not finite,
/// or statistics that were made from anything but `made_from`, naming the first difference.
StatisticsByModule load_statistics(
    const std::filesystem::path& path, const std::map<std::string, std::string>& made_from = {});

/// How the low-rank adapters of that name stand, A, B and alpha, for a `stored_start` of `modules`; one without an
/// adapter had rank 0. To be taken before they are trained.
StatisticsByModule start_statistics(
    const torch::nn::Module& model, const std::vector<std::string>& modules, const std::string& name = "default");

/// The start of an earlier run that `initializer` made, from its `start_statistics`: the same ranks, factors and, where
/// it rewrites the base, the same W − s·B·A, without what it had to capture or to decompose.
std::shared_ptr<const Initializer> stored_start(std::shared_ptr<const Initializer> initializer);

} // namespace rora
