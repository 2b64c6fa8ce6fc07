#pragma once

#include <rora/data/record.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rora {

/// How an answer is read off generated text. All but the first are the commonsense recipe's: case-sensitive, the first
/// match anywhere in the text, inside a word too.
enum class AnswerRule {
  kLastNumber, ///< the last match of -?[0-9]+\.?[0-9]* once commas are removed
  kTrueFalse, ///< true|false
  kSolution, ///< solution[12]
  kAnswer, ///< answer[1-5]
  kEnding, ///< ending[1-4]
  kOption, ///< option[12]
};

/// What `rule` finds in `text`, or nothing: an answer that cannot be parsed.
std::optional<std::string> extract_answer(AnswerRule rule, std::string_view text);

/// Whether an extracted answer is the gold one: the same text, or for numbers |a − b| < 1e-3. False where either is no
/// number under `AnswerRule::kLastNumber`.
bool is_same_answer(AnswerRule rule, std::string_view answer, std::string_view gold);

/// What a record's generated text is compared with.
struct GoldAnswer {
  AnswerRule rule = AnswerRule::kLastNumber;
  std::string text;
};

/// The gold answer of a prompt–completion record (alpaca too), by the first of these that the record has:
/// 1. its key `answer`: a choice ("true", "solution2", …) gives that rule, a number `kLastNumber`;
/// 2. "Answer format:" in the prompt with one of the rule's choices behind it ("Answer format: true/false"), and that
///    rule's answer in the completion;
/// 3. the completion's last number.
/// Nothing where none holds, or where `answer` is there and is neither a choice nor a number.
std::optional<GoldAnswer> gold_answer(const Record& record);

/// Counts of answers, and the accuracy with its standard error. The shares are NaN where nothing was counted.
struct AnswerScore {
  int64_t count = 0;
  int64_t correct = 0;
  int64_t unparsed = 0; ///< texts without an answer: these are wrong

  /// Counts one generated text.
  void add(const GoldAnswer& gold, std::string_view generated);

  double accuracy() const; ///< p = correct / count
  double standard_error() const; ///< √(p(1 − p) / count)
  double unparsed_share() const; ///< unparsed / count
};

/// What a model answered to one record.
struct Prediction {
  std::string text; ///< as generated; by likelihood the chosen candidate
  std::optional<std::string> answer; ///< read off the text
  std::optional<GoldAnswer> gold;
  bool correct = false;
};

/// A model's answers to records.
struct AnswerEvaluation {
  AnswerScore score;
  std::vector<Prediction> predictions; ///< in the records' order

  /// Appends what was generated for a record and counts it.
  void add(const GoldAnswer& gold, std::string text);
};

} // namespace rora
