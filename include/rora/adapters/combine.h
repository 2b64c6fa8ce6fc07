#pragma once

#include <rora/adapters/low_rank_folder.h>

#include <cstdint>
#include <vector>

namespace rora {

struct CombinedAdapter {
  LowRankFolder adapter;
  int64_t shared_a = 0; ///< modules of several adapters that share A: their B are summed
  int64_t shared_b = 0; ///< modules of several adapters that share B: their A are summed
  int64_t side_by_side = 0; ///< modules whose rank is a sum of ranks
};

/// The adapter whose change of each weight is ΔW = Σ weights[i]·ΔW_i.
///
/// With s_i the module's scale in adapter i and s that in the first that has it, ΔW = s·B·A with
///
///     B = [B_1·w_1·s_1/s, B_2·w_2·s_2/s, …]  `[out, Σ r_i]`      A = [A_1; A_2; …]  `[Σ r_i, in]`
///
/// whatever scalings, ranks and patterns the adapters have. (PEFT's add_weighted_adapter, of type "cat", writes α = r
/// under α/√r too, so that its sum is √r times too large.) Adapters whose A are equal bit by bit stay at their rank,
/// with the sum of their B; so with equal B and the sum of A: the average of clients that train B alone (FFA-LoRA, Sun
/// et al., arXiv 2403.12313) is one of B. Sums are formed in fp64. A module that some adapters lack is the others' sum;
/// a weight of 0 leaves its adapter out, though not its modules.
///
/// All but ranks and alphas is the first adapter's; where its `target_modules` do not mean all modules, these are
/// listed by their whole names. Whether the adapters are of one base is the caller's to ask (`base_model`).
///
/// Throws `c10::ValueError` for no adapters, weights that are not as many or not finite, adapters with DoRA, whose sum
/// is no low-rank change (each row's factor hangs on W and on the whole change), and with weights trained beside them
/// (`modules_to_save`, `trainable_token_indices`), which have no sum; `FormatError` where shapes differ.
CombinedAdapter combine_adapters(const std::vector<LowRankFolder>& adapters, const std::vector<double>& weights);

/// Brings modules of a higher rank down to `rank`, by the change of that rank that is nearest in Frobenius norm (Eckart
/// and Young 1936). With B = Q_B·R_B and Aᵀ = Q_A·R_A it is the singular value decomposition of R_B·R_Aᵀ, of rank ×
/// rank numbers, that is cut; the product B·A is never formed. Scales stay, and the singular values are split evenly
/// between B and A. All in fp64. Returns what was cut off. Throws `c10::ValueError` for a rank below 1, and where it
/// would cut a DoRA adapter, for which the nearest change depends on W.
ChangeError reduce_rank(LowRankFolder& adapter, int64_t rank);

/// Brings modules of a lower rank up to `rank` by rows of A and columns of B of zeros, which no gradient will move.
/// Scales stay. Throws `c10::ValueError` for a rank below 1.
void pad_rank(LowRankFolder& adapter, int64_t rank);

/// Keeps the first `count` rows of A and columns of B, at the scale that the module's alpha gives that rank: of
/// adapters that were trained so that these are one by themselves (DyLoRA: `RankSampler`). Modules of fewer ranks stay
/// as they are. Throws `c10::ValueError` for a count below 1, and for DoRA, whose magnitude is of all ranks.
void take_ranks(LowRankFolder& adapter, int64_t count);

} // namespace rora
