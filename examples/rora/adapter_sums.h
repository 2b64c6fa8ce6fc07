#pragma once

#include "flags.h"

#include <rora/adapters/combine.h>

#include <optional>
#include <string>
#include <vector>

namespace rora::cli {

/// How an adapter is written that was made from others: what combine, average and convert have in common.
struct AdapterOutputFlags {
  std::string output;
  std::optional<int64_t> rank;
  std::optional<Scaling> scaling;

  void add_output(Flags& flags);
  void add_rank(Flags& flags, const std::string& description);
  void add_scaling(Flags& flags);
  /// Throws `UsageError`, and `FileError` for a folder that holds something already.
  void check() const;
};

/// Reads the folders. Says on stderr where they name different base models, and where they have different templates of
/// chats: what is written has the first one's.
std::vector<LowRankFolder> read_adapters(const std::vector<std::string>& folders);

/// The numbers of `--weights`, as many as adapters, with commas. Throws `UsageError`.
std::vector<double> read_weights(const std::string& text, size_t adapters);

/// "model.layers.0.mlp.up_proj's by 3.1e-02, the most, and all together by 1.2e-02".
std::string error_text(const ChangeError& error);

/// Brings the sum's ranks down where `flags` say so, writes it with the first adapter's companion files, and prints
/// what was done.
void write_sum(CombinedAdapter& sum, const AdapterOutputFlags& flags);

/// Writes the adapter with its companion files and prints ranks, scaling and what rounding changed.
void write_adapter(const LowRankFolder& adapter, const std::string& output, const SaveLowRankOptions& options);

} // namespace rora::cli
