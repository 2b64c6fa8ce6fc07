#include <rora/evaluation/generation_task.h>

#include "../data/length_sorted.h"
#include "question.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <string>
#include <utility>

namespace rora {
namespace {

GenerationOptions with_stop_tokens(GenerationOptions options, const CausalLM& model, const Tokenizer& tokenizer) {
  if (options.stop_token_ids().empty()) {
    std::vector<int64_t> stops = model->options.eos_token_id();
    if (tokenizer.eos_id && std::find(stops.begin(), stops.end(), *tokenizer.eos_id) == stops.end()) {
      stops.push_back(*tokenizer.eos_id);
    }
    options.stop_token_ids(std::move(stops));
  }
  return options;
}

} // namespace

AnswerEvaluation evaluate_generation(
    CausalLM model, const Tokenizer& tokenizer, const std::vector<Record>& records,
    const GenerationTaskOptions& options, const std::function<void(int64_t)>& on_progress) {
  std::vector<std::vector<int64_t>> prompts;
  std::vector<GoldAnswer> golds;
  for (const Record& record : records) {
    detail::require_completion(record);
    const auto gold = gold_answer(record);
    if (!gold) {
      C10_THROW_ERROR(
          ValueError, record.place() + ": expected an answer to compare with, a choice or a number, found none");
    }
    golds.push_back(*gold);
    prompts.push_back(detail::encode_prompt(tokenizer, record, options.chat_template()));
  }

  const GenerationOptions generation = with_stop_tokens(options.generation(), model, tokenizer);
  std::vector<std::string> texts(records.size());
  int64_t done = 0;
  for (const auto& batch : detail::length_sorted_batches(
           static_cast<int64_t>(prompts.size()), options.batch_size(), [&](int64_t i) { return prompts[i].size(); })) {
    std::vector<std::vector<int64_t>> rows;
    for (const int64_t i : batch) {
      rows.push_back(std::move(prompts[i]));
    }
    const auto continuations = generate(model, rows, generation);
    for (size_t i = 0; i < batch.size(); ++i) {
      texts[batch[i]] = detail::decode_answer(tokenizer, continuations[i]);
    }
    done += static_cast<int64_t>(batch.size());
    if (on_progress) {
      on_progress(done);
    }
  }

  AnswerEvaluation result;
  for (size_t i = 0; i < records.size(); ++i) {
    result.add(golds[i], std::move(texts[i]));
  }
  return result;
}

} // namespace rora
