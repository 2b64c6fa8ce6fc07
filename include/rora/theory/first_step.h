#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

namespace rora::theory {

/// The first step of a low-rank adapter in closed form: what RoRA's argument is about (arXiv 2501.04315, section III).
///
/// Setting: y = W·x + γ·B·A·x. A `[r, in]` has independent entries of mean 0, variance σ² and excess kurtosis κ, a_k
/// are its rows, and B = 0. There is one example x, and δ = ∂L/∂y depends neither on A nor on r, since y is W·x. Then
///
///   ∂L/∂B = γ·δ·(A·x)ᵀ,  ∂L/∂A = γ·Bᵀ·δ·xᵀ = 0
///
/// and a step at the rate η moves B alone, from 0. With g = ∂L/∂B:
///
///   SGD    B = −η·g                 ΔW = γ·B·A = −η·γ²·δ·(Aᵀ·A·x)ᵀ
///   AdamW  B = −η·g/(|g| + ε)       ΔW → −η·γ·sign(δ)·(Aᵀ·sign(A·x))ᵀ  where |g| ≫ ε
///
/// since AdamW's first m̂ and v̂ are g and g², and decay does nothing to a B of zeros. Where |g| ≪ ε AdamW's first step,
/// and each law of it, is SGD's at the rate η/ε; the closed forms here are for |g| ≫ ε, the common case.
///
/// ΔW is of rank one: ΔW·x′ is δ, or its signs, times −η·γ²·q, or −η·γ·t, with
///
///   q = Σ_k (a_k·x)(a_k·x′)   and   t = Σ_k sign(a_k·x)·(a_k·x′).
///
/// The r terms of either sum are independent. One of q has the mean σ²·x·x′ and, as E[a_i·a_j·a_k·a_l] is σ⁴ for each
/// of three ways to pair the indices and (3 + κ)·σ⁴ where all four are one, the second moment
/// σ⁴·[‖x‖²‖x′‖² + 2(x·x′)² + κ·Σ x_j²x′_j²]. With E[q²] = r·E[term²] + r(r − 1)·E[term]²:
///
///   E[q²]     = σ⁴·r·[‖x‖²‖x′‖² + (r + 1)(x·x′)² + κ·Σ x_j²x′_j²]
///   E‖AᵀA·x‖² = σ⁴·r·‖x‖²·[in + r + 1 + κ]
///
/// One term of t has the second moment σ²‖x′‖², and the mean σ·m with, for a normal A, m = √(2/π)·x·x′/‖x‖; another A's
/// sums are nearly normal, and the first term of Edgeworth's series leaves an error of the order 1/in²:
///
///   m = √(2/π)·[(1 + κ·Σx_j⁴/(8‖x‖⁴))·x·x′/‖x‖ − κ·Σx_j³x′_j/(6‖x‖³)]
///   E[t²]               = σ²·r·[‖x′‖² + (r − 1)·m²]
///   E‖Aᵀ·sign(A·x)‖² = σ²·r·[in + (r − 1)·(2/π)·(1 − κ·Σx_j⁴/(12‖x‖⁴))]
///
/// So for aligned inputs, x′ = x, the change of the output grows as γ²·r by SGD and as γ·r by AdamW; for independent
/// ones, (x·x′)² ≪ ‖x‖²‖x′‖²/r, as γ²·√r and γ·√r. In between, r = ‖x‖²‖x′‖²/(x·x′)² divides the two laws. ‖ΔW‖ knows
/// no x′: over an x′ of covariance 1 that is independent of the step E‖ΔW·x′‖² is ‖ΔW‖², so that as long as r ≪ in it
/// obeys the law of independent inputs. The paper's equations 12 to 15, ‖w‖ ∝ γ²·r, are SGD's law for aligned inputs,
/// though it assumes independent ones.

/// What makes the step.
enum class StepRule { kSgd, kAdamW };

/// The norm of what changes: of an output at the step's own input, of one at an independent input, ‖ΔW‖.
enum class Change { kAlignedOutput, kIndependentOutput, kWeight };

inline constexpr std::array kStepRules{StepRule::kSgd, StepRule::kAdamW};
inline constexpr std::array kChanges{Change::kAlignedOutput, Change::kIndependentOutput, Change::kWeight};

/// How γ follows from the rank: α·r^exponent.
struct RankScale {
  const char* name;
  double exponent;

  double factor(double alpha, int64_t rank) const;
};

inline constexpr RankScale kLoraScale{"α/r", -1.0};
inline constexpr RankScale kRoraScale{"α/√r", -0.5};
inline constexpr RankScale kQuarterScale{"α/r^¼", -0.25};
inline constexpr RankScale kConstantScale{"α", 0.0};
inline constexpr std::array kRankScales{kLoraScale, kRoraScale, kQuarterScale, kConstantScale};

/// What A's entries are drawn from.
struct EntryDistribution {
  double variance = 1.0;
  double excess_kurtosis = 0.0;

  /// ±1/√in, as rora and PEFT draw them (`kaiming_uniform`): variance 1/(3·in), excess kurtosis −6/5.
  static EntryDistribution uniform(int64_t in_features);
  /// The standard normal that the paper assumes.
  static EntryDistribution standard_normal();
};

/// E[q²] or E[t²] over A, for x and x′ `[in]` in fp64.
double output_second_moment(
    StepRule rule, const EntryDistribution& entries, int64_t rank, const at::Tensor& x, const at::Tensor& other_x);

struct LayerSize {
  int64_t in_features = 0;
  int64_t out_features = 0;
};

/// E‖ΔW·x′‖² or E‖ΔW‖² for η = γ = 1 over A and over δ, x and x′ of standard normal entries:
///
///   SGD    aligned      out·σ⁴·r·[(r + 2)·in·(in + 2) + 3κ·in]
///          others       out·σ⁴·r·in·[in + r + 1 + κ]
///   AdamW  aligned      out·σ²·r·in·[1 + (r − 1)·(2/π)·(1 − κ/(4·(in + 2)))]
///          others       out·σ²·r·[in + (r − 1)·(2/π)·(1 − κ/(4·(in + 2)))]
///
/// of which AdamW's are exact for a normal A, and otherwise to the order above.
double second_moment(
    StepRule rule, Change change, const LayerSize& size, const EntryDistribution& entries, int64_t rank);

/// The same sums where the gradient is that of a batch, G = ∂L/∂W `[out, in]` at B = 0 instead of δ·xᵀ: then ∂L/∂B is
/// γ·G·Aᵀ, each output i has its own row g_i of G in the place of x, and with η = γ = 1
///
///   SGD    E‖ΔW·x′‖² = σ⁴·r·Σ_i [‖g_i‖²‖x′‖² + (r + 1)(g_i·x′)² + κ·Σ_j g_ij²x′_j²]
///   AdamW  E‖ΔW·x′‖² = σ²·r·Σ_i [‖x′‖² + (r − 1)·(2/π)·(g_i·x′)²/‖g_i‖²]
///
/// over the rows that are not zero, κ's part in AdamW's left out; the mean over the rows of `inputs` `[tokens, in]`.
/// In the tensors' dtype. Throws `c10::ValueError` for sizes that do not fit.
double output_mean_square(
    StepRule rule, const EntryDistribution& entries, int64_t rank, const at::Tensor& gradient,
    const at::Tensor& inputs);

/// By which power of r the root of `second_moment` times γ², or γ for AdamW, grows: 1 for aligned outputs where r ≫ 1,
/// ½ for the others where r ≪ in, and twice the scale's exponent, for AdamW once.
double predicted_exponent(StepRule rule, Change change, const RankScale& scale);

/// How often γ is a factor of the change: 2 for SGD, 1 for AdamW.
int64_t powers_of_scale(StepRule rule);

/// ΔW `[out, in]` of the first step at the rate `lr`, from A `[r, in]`, x `[in]` and δ `[out]`. AdamW's with its ε.
at::Tensor first_step_change(
    StepRule rule, const at::Tensor& a, const at::Tensor& x, const at::Tensor& delta, double scale, double lr,
    double eps = 1e-8);

} // namespace rora::theory
