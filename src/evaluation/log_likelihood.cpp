#include <rora/evaluation/log_likelihood.h>

#include "../data/length_sorted.h"
#include "../model/evaluation_mode.h"

#include <rora/data/batch.h>
#include <rora/error.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace rora {
namespace {

using Ids = std::vector<int64_t>;

void check(const PromptContinuations& prompt, int64_t vocab_size) {
  const auto check_ids = [&](const char* what, const Ids& ids) {
    TORCH_CHECK_VALUE(!ids.empty(), "expected tokens in ", what, ", found none");
    for (const int64_t id : ids) {
      TORCH_CHECK_VALUE(
          id >= 0 && id < vocab_size, "token id ", id, " of ", what, " is outside the vocabulary of ", vocab_size);
    }
  };
  check_ids("a prompt", prompt.prompt);
  for (const Ids& continuation : prompt.continuations) {
    check_ids("a continuation", continuation);
  }
}

/// How many tokens all continuations begin with.
size_t shared_length(const std::vector<Ids>& continuations) {
  size_t shared = continuations.front().size();
  for (const Ids& each : continuations) {
    const auto differs = std::mismatch(
        each.begin(), each.end(), continuations.front().begin(),
        continuations.front().begin() + static_cast<int64_t>(std::min(each.size(), shared)));
    shared = std::min(shared, static_cast<size_t>(differs.first - each.begin()));
  }
  return shared;
}

/// Tokens to be predicted from states of one forward pass.
struct Targets {
  Ids states; ///< rows of the hidden states `[batch · seq, hidden]`
  Ids tokens;

  void add(int64_t state, int64_t token) {
    states.push_back(state);
    tokens.push_back(token);
  }
};

/// ln p(token) of each target, from hidden states `[batch, seq, hidden]`.
std::vector<double> token_log_probabilities(CausalLM model, const at::Tensor& hidden, const Targets& targets) {
  constexpr int64_t kChunk = 256; // bounds the memory that logits take
  const at::Tensor states = hidden.reshape({-1, hidden.size(2)});
  const at::Tensor rows = at::tensor(targets.states, at::kLong).to(hidden.device());
  const at::Tensor tokens = at::tensor(targets.tokens, at::kLong).to(hidden.device()).unsqueeze(1);
  std::vector<double> result;
  for (int64_t begin = 0; begin < rows.size(0); begin += kChunk) {
    const int64_t end = std::min(begin + kChunk, rows.size(0));
    const at::Tensor logits = model->logits(states.index_select(0, rows.slice(0, begin, end)));
    const auto wide = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor chosen = logits.to(wide).log_softmax(1).gather(1, tokens.slice(0, begin, end));
    const at::Tensor values = chosen.squeeze(1).to(at::kDouble).cpu().contiguous();
    result.insert(result.end(), values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel());
  }
  return result;
}

/// Scores one batch of prompts: first what the continuations of each share, then what they end in.
class PromptBatch {
 public:
  PromptBatch(CausalLM model, std::vector<const PromptContinuations*> prompts)
      : model_(model), prompts_(std::move(prompts)), device_(model->device()) {}

  std::vector<std::vector<double>> score() {
    for (const PromptContinuations* each : prompts_) {
      shared_.push_back(shared_length(each->continuations));
      scores_.emplace_back(each->continuations.size(), 0.0);
    }
    score_shared_beginnings();
    score_endings();
    return std::move(scores_);
  }

 private:
  static at::Tensor padded(const std::vector<Ids>& rows, int64_t filling) {
    size_t longest = 0;
    for (const Ids& row : rows) {
      longest = std::max(longest, row.size());
    }
    at::Tensor result =
        at::full({static_cast<int64_t>(rows.size()), static_cast<int64_t>(longest)}, filling, at::kLong);
    for (size_t i = 0; i < rows.size(); ++i) {
      std::copy(rows[i].begin(), rows[i].end(), result.mutable_data_ptr<int64_t>() + i * longest);
    }
    return result;
  }

  /// Runs prompts and shared beginnings; their last state also predicts the first token of each ending.
  void score_shared_beginnings() {
    std::vector<Ids> rows;
    std::vector<Ids> marks;
    for (size_t i = 0; i < prompts_.size(); ++i) {
      Ids row = prompts_[i]->prompt;
      const Ids& first = prompts_[i]->continuations.front();
      row.insert(row.end(), first.begin(), first.begin() + static_cast<int64_t>(shared_[i]));
      marks.emplace_back(row.size(), 1);
      rows.push_back(std::move(row));
    }
    mask_ = padded(marks, 0);
    const at::Tensor hidden = model_->hidden_states({padded(rows, 0).to(device_), mask_.to(device_), {}}, &cache_);
    const int64_t columns = hidden.size(1);
    Targets targets;
    for (size_t i = 0; i < prompts_.size(); ++i) {
      const int64_t begin = static_cast<int64_t>(i) * columns - 1; // the state before a token predicts it
      for (size_t t = prompts_[i]->prompt.size(); t < rows[i].size(); ++t) {
        targets.add(begin + static_cast<int64_t>(t), rows[i][t]);
      }
      for (const Ids& each : prompts_[i]->continuations) {
        if (each.size() > shared_[i]) {
          targets.add(begin + static_cast<int64_t>(rows[i].size()), each[shared_[i]]);
        }
      }
    }
    const std::vector<double> values = token_log_probabilities(model_, hidden, targets);
    auto value = values.begin();
    for (size_t i = 0; i < prompts_.size(); ++i) {
      double shared_sum = 0.0;
      for (size_t t = 0; t < shared_[i]; ++t) {
        shared_sum += *value++;
      }
      for (size_t c = 0; c < scores_[i].size(); ++c) {
        scores_[i][c] = shared_sum + (prompts_[i]->continuations[c].size() > shared_[i] ? *value++ : 0.0);
      }
    }
  }

  /// Runs the endings of two tokens and more behind their prompts' cache.
  void score_endings() {
    std::vector<Ids> inputs, marks, positions;
    Ids origins;
    std::vector<std::pair<size_t, size_t>> scored; // prompt and continuation of each row
    for (size_t i = 0; i < prompts_.size(); ++i) {
      for (size_t c = 0; c < scores_[i].size(); ++c) {
        const Ids& each = prompts_[i]->continuations[c];
        if (each.size() < shared_[i] + 2) {
          continue;
        }
        inputs.emplace_back(each.begin() + static_cast<int64_t>(shared_[i]), each.end() - 1);
        marks.emplace_back(inputs.back().size(), 1);
        positions.emplace_back(inputs.back().size());
        std::iota(
            positions.back().begin(), positions.back().end(),
            static_cast<int64_t>(prompts_[i]->prompt.size() + shared_[i]));
        origins.push_back(static_cast<int64_t>(i));
        scored.emplace_back(i, c);
      }
    }
    if (scored.empty()) {
      return;
    }
    const at::Tensor index = at::tensor(origins, at::kLong);
    cache_.select(index.to(device_));
    ModelInput input;
    input.input_ids = padded(inputs, 0).to(device_);
    input.attention_mask = at::cat({mask_.index_select(0, index), padded(marks, 0)}, 1).to(device_);
    input.position_ids = padded(positions, 0).to(device_);
    const at::Tensor hidden = model_->hidden_states(input, &cache_);
    Targets targets;
    for (size_t row = 0; row < scored.size(); ++row) {
      const auto [i, c] = scored[row];
      const Ids& each = prompts_[i]->continuations[c];
      for (size_t t = 0; t < inputs[row].size(); ++t) {
        targets.add(static_cast<int64_t>(row) * hidden.size(1) + static_cast<int64_t>(t), each[shared_[i] + t + 1]);
      }
    }
    const std::vector<double> values = token_log_probabilities(model_, hidden, targets);
    auto value = values.begin();
    for (size_t row = 0; row < scored.size(); ++row) {
      for (size_t t = 0; t < inputs[row].size(); ++t) {
        scores_[scored[row].first][scored[row].second] += *value++;
      }
    }
  }

  CausalLM model_;
  std::vector<const PromptContinuations*> prompts_;
  at::Device device_;
  std::vector<size_t> shared_; // of each prompt, how many tokens its continuations begin with alike
  std::vector<std::vector<double>> scores_;
  KeyValueCache cache_;
  at::Tensor mask_; // of the cached tokens, on the CPU
};

} // namespace

std::vector<std::vector<double>> log_likelihoods(
    CausalLM model, const std::vector<PromptContinuations>& prompts, int64_t batch_size) {
  std::vector<int64_t> asked; // a prompt without continuations has nothing to score
  for (size_t i = 0; i < prompts.size(); ++i) {
    check(prompts[i], model->options.vocab_size());
    if (!prompts[i].continuations.empty()) {
      asked.push_back(static_cast<int64_t>(i));
    }
  }
  const auto prompt_length = [&](int64_t i) { return prompts[asked[i]].prompt.size(); };
  at::NoGradGuard no_grad;
  detail::EvaluationMode evaluation_mode(*model);
  std::vector<std::vector<double>> result(prompts.size());
  for (const auto& batch :
       detail::length_sorted_batches(static_cast<int64_t>(asked.size()), batch_size, prompt_length)) {
    std::vector<const PromptContinuations*> members;
    for (const int64_t i : batch) {
      members.push_back(&prompts[asked[i]]);
    }
    auto scores = PromptBatch(model, std::move(members)).score();
    for (size_t i = 0; i < batch.size(); ++i) {
      if (!std::all_of(scores[i].begin(), scores[i].end(), [](double score) { return std::isfinite(score); })) {
        throw NotFiniteError("a log-likelihood is not finite: the model's numbers overflow");
      }
      result[asked[batch[i]]] = std::move(scores[i]);
    }
  }
  return result;
}

} // namespace rora
