#pragma once

#include <rora/adapters/adapter_options.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace rora {

/// What a folder's adapter does to one weight: ΔW = scale·B·A, and with DoRA the length that each row of W + ΔW gets.
struct LowRankChange {
  at::Tensor a; ///< `[rank, in]`, in fp32, or in fp64 where a value is not fp32's
  at::Tensor b; ///< `[out, rank]`, the same
  double scale = 1.0; ///< α/r or α/√r, of the module's own α and r
  at::Tensor magnitude; ///< `[out]`, undefined without DoRA

  int64_t rank() const {
    return a.size(0);
  }
};

/// A PEFT folder of low-rank adapters (LoRA, RoRA or rsLoRA, DoRA) as the numbers that it holds. It needs no model:
/// what a module's weight measures, its factors say. AdaLoRA's A, E and B are read as the low-rank adapter of diag(E)·A
/// and B, which does the same.
struct LowRankFolder {
  std::filesystem::path path; ///< where it was read
  std::string config; ///< its adapter_config.json; of AdaLoRA what LoRA's would be
  AdapterOptions options; ///< what that says; where `modules` have been changed their ranks and scales count
  std::string base_model; ///< `base_model_name_or_path`, or nothing
  std::map<std::string, LowRankChange> modules; ///< by whole name
  /// By key, as stored: what `modules_to_save` and `trainable_token_indices` train, and the base weight of an adapted
  /// head, which PEFT stores too.
  std::map<std::string, at::Tensor> others;
};

/// Reads the folder into memory. Each module that has a tensor must have all of them, of shapes that go together and of
/// finite numbers, and no tensor may be there that `adapter_config.json` does not ask for. (Whether a module has none
/// that the model has, only the model can tell.) Throws `FileError`, and `FormatError` naming the field or the tensor:
/// also for adapters of another kind.
LowRankFolder read_low_rank_folder(const std::filesystem::path& folder);

struct SaveLowRankOptions {
  /// How the written scales follow from alphas and ranks; none: as in the folder that was read.
  TORCH_ARG(std::optional<Scaling>, scaling) = std::nullopt;
  /// The one alpha that is written. A module whose scale is another then has B·scale/scale′ for B. None: each module
  /// keeps its scale by an alpha of its own, in `alpha_pattern` where it is not most modules', and A and B as they are.
  TORCH_ARG(std::optional<double>, alpha) = std::nullopt;
  /// Whether there is one rank and one alpha, without patterns: modules of smaller ranks get rows of A and columns of B
  /// of zeros, and scales differ by their B.
  TORCH_ARG(bool, uniform) = false;
};

/// How far changes are from those that they stand for, in Frobenius norms.
struct ChangeError {
  double largest = 0.0; ///< ‖ΔW′ − ΔW‖ / ‖ΔW‖ of the module where that is largest
  std::string module; ///< its name; empty where every module's is 0
  double overall = 0.0; ///< √Σ‖ΔW′ − ΔW‖² / √Σ‖ΔW‖² over all modules
};

/// Writes the folder as PEFT does: `adapter_config.json` with every field that was read, but for ranks, alphas, scaling
/// and what only says how A and B once began, and `adapter_model.safetensors` with A and B in fp32. Returns what that
/// rounding, once a value, has changed. Throws `FileError`; and `c10::ValueError` for a rank that `load_adapter`
/// refuses, and for values or an alpha beyond fp32: nothing is written then.
ChangeError save_low_rank_folder(
    const LowRankFolder& adapter, const std::filesystem::path& folder, const SaveLowRankOptions& save = {});

} // namespace rora
