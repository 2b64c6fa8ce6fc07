#pragma once

#include <rora/theory/first_step.h>

#include <torch/arg.h>

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

namespace rora::theory {

/// Which A a sample draws.
enum class InitialA {
  kUniform, ///< ±1/√in, as rora and PEFT draw it
  kStandardNormal, ///< the paper's assumption
};

struct FirstStepOptions {
  /// The squares are skewed: of fewer, their spread itself is known too badly to give an interval.
  static constexpr int64_t kFewestSamples = 100;

  TORCH_ARG(int64_t, in_features) = 1024;
  TORCH_ARG(int64_t, out_features) = 64;
  TORCH_ARG(InitialA, initial_a) = InitialA::kUniform;
  /// Independent first steps a rank.
  TORCH_ARG(int64_t, samples) = 2000;
  TORCH_ARG(uint64_t, seed) = 0;

 public:
  /// Throws `c10::ValueError` naming the option that is out of range.
  void validate() const;
  EntryDistribution entries() const;
  LayerSize size() const;
};

/// The mean of a squared norm over the samples, and that mean's standard error.
struct MeanSquare {
  double mean = 0.0;
  double standard_error = 0.0;

  /// The root of the mean, and its standard error to first order.
  double root() const;
  double root_standard_error() const;
};

/// What first steps at one rank did, for η = γ = 1: of either, ΔW has γ² or γ as a factor (`first_step.h`), so that one
/// sample serves every scale.
struct FirstStepMeasurement {
  int64_t rank = 0;
  std::array<std::array<MeanSquare, kChanges.size()>, kStepRules.size()> moments;

  const MeanSquare& of(StepRule rule, Change change) const;
};

/// Draws A, and δ, x and x′ of standard normal entries, for each sample anew, takes both steps from them, and measures
/// ‖ΔW·x‖², ‖ΔW·x′‖² and ‖ΔW‖² in fp64. The numbers follow from (seed, rank, sample) by Philox, so that neither the
/// number of threads nor the other ranks change them. Throws `c10::ValueError` for options out of range.
FirstStepMeasurement measure_first_step(const FirstStepOptions& options, int64_t rank);

} // namespace rora::theory
