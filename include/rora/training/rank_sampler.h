#pragma once

#include <rora/training/hooks.h>

#include <torch/arg.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rora {

class LowRankAdapter;

/// How `RankSampler` trains, with the defaults of DyLoRA's authors.
struct RankSamplerOptions {
  /// Whether a step of rank b trains row b of A and column b of B alone, the others being read as they are (the
  /// authors' "frozen"); else all of the first b.
  TORCH_ARG(bool, last_only) = true;
};

/// DyLoRA (Valipour et al., arXiv 2210.07558), which trains low-rank adapters so that their first b ranks are an
/// adapter by themselves, for every b. Each step draws b evenly from 1 … R, with R the largest rank of all adapters,
/// and computes by
///
///   y = W·x + s_b·B[:, :b]·A[:b]·x + bias,  s_b = α/b or α/√b
///
/// as LoRA or RoRA of rank b would (the authors' code writes α/R·(√(R/b))² = α/b). An adapter of fewer than b ranks has
/// all of its own. Outside of training all ranks count. `take_ranks` makes a folder's adapter one of its first b ranks.
///
/// With `last_only` Adam moves the other ranks by the moments of earlier steps, and weight decay draws them towards 0,
/// as in the authors' code. A step that runs as a CUDA graph throws: its shapes depend on b.
///
/// \code
/// rora::attach_adapters(*model, rora::AdapterOptions().low_rank(rora::LowRankOptions().rank(8)));
/// trainer.add_hook(std::make_shared<rora::RankSampler>());
/// \endcode
class RankSampler : public TrainingHook {
 public:
  explicit RankSampler(const RankSamplerOptions& options = {});

  /// The adapters train with all of their ranks again.
  ~RankSampler() override;

  std::string name() const override;

  /// Throws `c10::ValueError` where the model has no trained low-rank adapter, or one with DoRA, with a core or over a
  /// rewritten base (PiSSA, LoRA-GA), whose first ranks are no adapter by themselves; and for an optimiser other than
  /// AdamW: those on pairs read A and B whole.
  void begin(const StepContext& context) override;

  void before_forward(const StepContext& context) override;

  std::map<std::string, double> fingerprint() const override;

 private:
  void train_ranks(std::optional<int64_t> count) const;

  const RankSamplerOptions options_;
  std::vector<std::shared_ptr<LowRankAdapter>> adapters_;
  int64_t most_ = 0; ///< R
};

} // namespace rora
