#pragma once

#include "flags.h"

#include <rora/model/causal_lm.h>
#include <rora/model/pretrained.h>
#include <rora/text/tokenizer.h>

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <memory>
#include <optional>
#include <string>

namespace rora::cli {

/// The flags that the subcommands share, a function each.
struct ModelFlags {
  std::string model;
  std::optional<std::string> adapter;
  std::optional<at::ScalarType> dtype = at::kFloat; ///< empty: as stored
  std::string device = "cpu";
  int64_t threads = 0;
  bool pack_weights = false;
  bool no_mmap = false;
  bool infer_widths = false;
  TokenizerKind tokenizer = TokenizerKind::kAuto;

  Flag add_model(Flags& flags);
  Flag add_adapter(Flags& flags);
  Flag add_dtype(Flags& flags);
  /// Adds "auto", which keeps weights as they are stored and is the default here.
  Flag add_dtype_or_stored(Flags& flags);
  Flag add_device(Flags& flags);
  Flag add_threads(Flags& flags);
  Flag add_pack_weights(Flags& flags);
  Flag add_tokenizer(Flags& flags);
  /// How the folder's weights are taken in: --no-mmap and --infer-widths.
  void add_loading(Flags& flags);

  /// Sets the number of threads, if one was asked for; from then on they wait as it suits the machine's load.
  void use_threads() const;
  /// Throws `UsageError` for CUDA where there is none.
  at::Device open_device() const;
  /// Throws `UsageError` for CUDA graphs on another device.
  void check_cuda_graph(bool wanted) const;
  /// The model's config.json. Throws `FileError` for a model that is no folder.
  DecoderOptions read_config() const;
  /// How `load` loads the model, in that dtype.
  LoadModelOptions load_options(std::optional<at::ScalarType> in_dtype) const;
  /// The model, and the adapter where one was asked for, on the device; in evaluation mode.
  CausalLM load() const;
  std::unique_ptr<Tokenizer> load_tokenizer() const;
};

/// "float32", "bfloat16", ….
std::string dtype_text(at::ScalarType dtype);

} // namespace rora::cli
