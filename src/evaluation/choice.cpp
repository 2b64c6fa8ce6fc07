#include <rora/evaluation/choice.h>

#include "../data/length_sorted.h"
#include "question.h"

#include <rora/evaluation/log_likelihood.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

namespace rora {
namespace {

constexpr std::string_view kAnswerFormat = "Answer format:";
constexpr std::string_view kAnswerBegins = "the correct answer is ";

std::string_view without_space(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  return begin == std::string_view::npos ? std::string_view()
                                         : text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

struct Question {
  std::vector<std::string> candidates;
  std::optional<GoldAnswer> gold; ///< absent where the record cannot be read
};

Question read_question(const Record& record) {
  detail::require_completion(record);
  Question question{answer_candidates(record), gold_answer(record)};
  const auto& candidates = question.candidates;
  if (question.gold && std::find(candidates.begin(), candidates.end(), question.gold->text) == candidates.end()) {
    question.gold.reset();
  }
  return question;
}

} // namespace

std::vector<std::string> answer_candidates(const Record& record) {
  std::vector<std::string> candidates;
  const size_t at = record.prompt.rfind(kAnswerFormat);
  if (at == std::string::npos) {
    return candidates;
  }
  std::string_view rest = std::string_view(record.prompt).substr(at + kAnswerFormat.size());
  rest = rest.substr(0, rest.find('\n'));
  while (true) {
    const size_t slash = rest.find('/');
    const std::string_view word = without_space(rest.substr(0, slash));
    if (word.empty()) {
      return {};
    }
    candidates.emplace_back(word);
    if (slash == std::string_view::npos) {
      break;
    }
    rest.remove_prefix(slash + 1);
  }
  return candidates.size() < 2 ? std::vector<std::string>() : candidates;
}

AnswerEvaluation evaluate_choice(
    CausalLM model, const Tokenizer& tokenizer, const std::vector<Record>& records, int64_t batch_size,
    const std::function<void(int64_t)>& on_progress, const std::optional<ChatTemplate>& chat_template) {
  std::vector<Question> questions;
  std::vector<PromptContinuations> prompts;
  std::vector<size_t> asked; // the record of each prompt
  for (const Record& record : records) {
    Question question = read_question(record);
    if (question.gold) {
      asked.push_back(questions.size());
      prompts.push_back({detail::encode_prompt(tokenizer, record, chat_template), {}});
      for (const std::string& candidate : question.candidates) {
        prompts.back().continuations.push_back(
            detail::encode_answer(tokenizer, record, chat_template, std::string(kAnswerBegins) + candidate));
      }
    }
    questions.push_back(std::move(question));
  }
  if (asked.empty() && !records.empty()) {
    C10_THROW_ERROR(ValueError, "no record has an answer among the choices of \"Answer format: X/Y\" in its prompt");
  }

  std::vector<std::string> chosen(records.size());
  int64_t done = static_cast<int64_t>(records.size() - asked.size());
  for (const auto& batch : detail::length_sorted_batches(
           static_cast<int64_t>(prompts.size()), batch_size, [&](int64_t i) { return prompts[i].prompt.size(); })) {
    std::vector<PromptContinuations> members;
    for (const int64_t i : batch) {
      members.push_back(std::move(prompts[i]));
    }
    const auto scores = log_likelihoods(model, members, batch_size);
    for (size_t i = 0; i < batch.size(); ++i) {
      const auto best = std::max_element(scores[i].begin(), scores[i].end()) - scores[i].begin();
      const size_t record = asked[batch[i]];
      chosen[record] = questions[record].candidates[best];
    }
    done += static_cast<int64_t>(batch.size());
    if (on_progress) {
      on_progress(done);
    }
  }

  AnswerEvaluation result;
  for (size_t i = 0; i < records.size(); ++i) {
    const bool parsed = questions[i].gold.has_value();
    const bool correct = parsed && chosen[i] == questions[i].gold->text;
    ++result.score.count;
    result.score.correct += correct ? 1 : 0;
    result.score.unparsed += parsed ? 0 : 1;
    result.predictions.push_back(
        {chosen[i], parsed ? std::optional(chosen[i]) : std::nullopt, std::move(questions[i].gold), correct});
  }
  return result;
}

} // namespace rora
