#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

namespace rora::testing {

/// A model folder and what transformers answers with it in fp32, as tests/fixtures/golden/make_golden.py lays it out.
struct Golden {
  std::string name; ///< Of letters, digits and underscores.
  std::filesystem::path model;
  std::filesystem::path answers;
};

/// The one in the tree, and any others that RORA_GOLDEN of the environment names as "MODEL_FOLDER=ANSWER_FOLDER", with
/// ":" between several.
std::vector<Golden> goldens();

/// One of a golden's adapters with PEFT's answers.
struct GoldenAdapter {
  std::string name;
  Golden golden;
  std::filesystem::path folder;
};

/// Those of every golden.
std::vector<GoldenAdapter> golden_adapters();

/// Prompts of a text.json, and what transformers makes of them greedily, with a cache.
struct GreedyPrompts {
  std::vector<std::vector<int64_t>> prompts;
  std::vector<std::vector<int64_t>> continuations;
};

/// A prompt is the first `prompt_length` ids of its row, or a text among those that the file tokenises.
GreedyPrompts read_greedy(const std::filesystem::path& path);

std::ostream& operator<<(std::ostream& stream, const Golden& golden);
std::ostream& operator<<(std::ostream& stream, const GoldenAdapter& adapter);

/// The largest difference as a share of the largest of `stored`, which may hold the logits of the last positions alone.
double logits_error(const at::Tensor& logits, const at::Tensor& stored);

} // namespace rora::testing
