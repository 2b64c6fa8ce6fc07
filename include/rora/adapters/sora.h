#pragma once

#include <rora/adapters/gated_adapter.h>
#include <rora/core/scaling.h>

#include <torch/arg.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace rora {

class AdapterKind;

/// The options of SoRA, with its authors' defaults:
/// \code
/// const auto options = rora::SoraOptions().rank(16).threshold(1e-3);
/// rora::attach_adapters(*model, rora::AdapterOptions().kind(rora::sora(options)));
/// trainer.add_hook(std::make_shared<rora::GateThreshold>(options)); // rora/training/gate_threshold.h
/// \endcode
struct SoraOptions {
  /// Rows of A, columns of B and gates at the beginning.
  TORCH_ARG(int64_t, rank) = 8;
  /// Numerator of the scale.
  TORCH_ARG(double, alpha) = 16.0;
  /// How the scale follows from alpha and rank.
  TORCH_ARG(Scaling, scaling) = Scaling::kStandard;
  /// The probability of dropping an element of A's input while training.
  TORCH_ARG(double, dropout) = 0.0;
  /// The weight of the loss mean|g| over all gates, the authors' λ₁.
  TORCH_ARG(double, gate_loss_weight) = 10.0;
  /// How much nearer to 0 each gate is after every step, the authors' λ₂.
  TORCH_ARG(double, threshold) = 3e-4;

 public:
  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;
};

/// SoRA: y = W·x + s·B·diag(g)·A·x + bias (Ding et al., arXiv 2311.11696), with s = α/rank or α/√rank of the rank that
/// it began with. A begins as a linear layer's weight, B at 0 and g from N(0, 1).
///
/// Folders are those of LoRA: diag(g)·A and B of the ranks whose gate is not 0, at the same s by `rank_pattern` and
/// `alpha_pattern`; a module without such a rank has one of zeros.
class SoraAdapter : public GatedAdapter {
 public:
  /// An adapter of `projection`, on its device. Throws for options out of range.
  SoraAdapter(const ProjectionImpl& projection, const SoraOptions& options);

  double scale() const override;

  double dropout() const override;

  /// How many ranks a folder is given.
  int64_t saved_rank() const;

  /// diag(g)·A and B of those.
  std::vector<std::pair<std::string, at::Tensor>> saved_tensors() const override;

  std::shared_ptr<Adapter> empty_copy() const override;

  void pretty_print(std::ostream& stream) const override;

  const SoraOptions options;

 private:
  /// Tensors without values.
  SoraAdapter(const SoraOptions& options, int64_t in, int64_t out, const at::TensorOptions& like);
};

/// The kind of these adapters, for `AdapterOptions::kind`. Throws `c10::ValueError` for options out of range.
std::shared_ptr<const AdapterKind> sora(const SoraOptions& options = {});

} // namespace rora
