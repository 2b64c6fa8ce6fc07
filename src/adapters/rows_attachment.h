#pragma once

#include "attachment.h"

#include <rora/adapters/adapter_options.h>
#include <rora/model/trained_rows.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rora::detail {

/// An embedding or a head of which rows are trained (`modules_to_save`, `trainable_token_indices`).
struct RowsAttachment {
  std::string module; ///< "model.embed_tokens" or "lm_head"
  /// Its projection; of a tied head that is still to be untied the embedding, which is of the same sizes and values.
  std::shared_ptr<ProjectionImpl> projection;
  std::optional<std::vector<int64_t>> tokens; ///< nothing: all rows
  bool unties_head = false; ///< whether the model's head and embedding are no longer one with this adapter
  std::shared_ptr<TrainedRows> adapter = nullptr; ///< once it is made
  std::optional<std::string> tied_head = std::nullopt; ///< the name of a head whose rows these are too

  /// Where a folder stores the rows, and their shape there.
  std::vector<std::string> keys() const;
  std::vector<int64_t> shape() const;
};

/// What `options` mean in `model`, with nothing made or untied yet. Throws `c10::ValueError` for a module that is not
/// there or cannot be trained so, for tokens outside the vocabulary or named twice, and for options that contradict
/// each other.
std::vector<RowsAttachment> plan_rows(const torch::nn::Module& model, const AdapterOptions& options);

/// Makes the rows that are planned, as the frozen ones are now.
void make_rows(std::vector<RowsAttachment>& plan);

/// Puts them into their slots and makes them active; unties the head where the plan says so.
void attach_rows(torch::nn::Module& model, const std::vector<RowsAttachment>& plan, const std::string& name);

/// The rows that are attached to `model` under that name.
std::vector<RowsAttachment> attached_rows(const torch::nn::Module& model, const std::string& name);

/// Writes into `options` what attaches the rows of `attached` to the base as it was loaded.
void put_rows_options(const std::vector<RowsAttachment>& attached, AdapterOptions& options);

/// Whether these are the same rows.
bool same_rows(const std::vector<RowsAttachment>& a, const std::vector<RowsAttachment>& b);

} // namespace rora::detail
