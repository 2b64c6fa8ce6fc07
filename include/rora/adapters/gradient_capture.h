#pragma once

#include <rora/core/initializer.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace torch::nn {
class Module;
}

namespace rora {

/// Whether what was captured over so many batches is enough, from the sums of the named weights' gradients. That of a
/// weight which no batch gave a gradient yet is undefined.
using EnoughBatches = std::function<bool(int64_t batches, const std::map<std::string, at::Tensor>& sums)>;

/// The mean over `batches` of ∂L/∂W `[out, in]` of each of the named projections, in fp32 on the CPU, for an
/// initializer that reads it: `run(i)` does forward and backward of the i-th batch's loss L.
///
/// \code
/// const auto modules = rora::target_modules(*model, options);
/// const auto statistics = rora::capture_gradients(*model, modules, 32, [&](int64_t i) { loss(batch[i]).backward(); });
/// rora::attach_adapters(*model, options, rora::kDefaultAdapter, statistics);
/// \endcode
///
/// Each gradient is taken to the CPU and freed as soon as backward has made it: the device holds those of a layer at
/// most. Where `enough` says so behind a batch, that was the last one. Nothing but the named weights gets a gradient
/// meanwhile. Afterwards, also after an exception, every parameter requires gradients or not, and holds the gradient,
/// as before.
///
/// Throws `c10::ValueError` for a name that is no projection's, a merged projection, a weight that is not dense, fewer
/// than one batch, and a weight that no batch gave a gradient.
std::map<std::string, WeightStatistics> capture_gradients(
    torch::nn::Module& model, const std::vector<std::string>& modules, int64_t batches,
    const std::function<void(int64_t batch)>& run, const EnoughBatches& enough = nullptr);

} // namespace rora
