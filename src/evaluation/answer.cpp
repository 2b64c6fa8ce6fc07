#include <rora/evaluation/answer.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <system_error>
#include <utility>
#include <vector>

namespace rora {

namespace {

constexpr double kNumberTolerance = 1e-3;

struct Choices {
  AnswerRule rule;
  std::vector<std::string> words;
};

const std::array<Choices, 5>& all_choices() {
  static const std::array<Choices, 5> choices{{
      {AnswerRule::kTrueFalse, {"true", "false"}},
      {AnswerRule::kSolution, {"solution1", "solution2"}},
      {AnswerRule::kAnswer, {"answer1", "answer2", "answer3", "answer4", "answer5"}},
      {AnswerRule::kEnding, {"ending1", "ending2", "ending3", "ending4"}},
      {AnswerRule::kOption, {"option1", "option2"}},
  }};
  return choices;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

std::string without_commas(std::string_view text) {
  std::string result(text);
  result.erase(std::remove(result.begin(), result.end(), ','), result.end());
  return result;
}

/// The end of the match of -?[0-9]+\.?[0-9]* that begins at `begin`, or `begin` where there is none.
size_t match_number(std::string_view text, size_t begin) {
  const auto skip_digits = [&](size_t i) {
    while (i < text.size() && is_digit(text[i])) {
      ++i;
    }
    return i;
  };
  const size_t first = begin + (text[begin] == '-' ? 1 : 0);
  size_t end = skip_digits(first);
  if (end == first) {
    return begin;
  }
  if (end < text.size() && text[end] == '.') {
    end = skip_digits(end + 1);
  }
  return end;
}

std::optional<std::string> last_number(std::string_view original) {
  const std::string text = without_commas(original);
  std::optional<std::string> number;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = match_number(text, begin);
    if (end > begin) {
      number = text.substr(begin, end - begin);
    }
    begin = std::max(end, begin + 1);
  }
  return number;
}

std::optional<double> parse_number(std::string_view original) {
  const std::string text = without_commas(original);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool is_number = error == std::errc() && end == text.data() + text.size() && std::isfinite(value);
  return is_number ? std::optional<double>(value) : std::nullopt;
}

std::optional<std::string> first_word(const std::vector<std::string>& words, std::string_view text) {
  size_t first = std::string_view::npos;
  std::optional<std::string> found;
  for (const std::string& word : words) {
    const size_t at = text.find(word);
    if (at < first) {
      first = at;
      found = word;
    }
  }
  return found;
}

/// The rule of what stands behind "Answer format:", to the end of its line.
std::optional<AnswerRule> rule_of_format(std::string_view prompt) {
  constexpr std::string_view kFormat = "Answer format:";
  const size_t at = prompt.rfind(kFormat);
  if (at == std::string_view::npos) {
    return std::nullopt;
  }
  std::string_view format = prompt.substr(at + kFormat.size());
  format = format.substr(0, format.find('\n'));
  for (const Choices& choices : all_choices()) {
    if (first_word(choices.words, format)) {
      return choices.rule;
    }
  }
  return std::nullopt;
}

double share(int64_t part, int64_t count) {
  return count == 0 ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(part) / static_cast<double>(count);
}

} // namespace

std::optional<std::string> extract_answer(AnswerRule rule, std::string_view text) {
  for (const Choices& choices : all_choices()) {
    if (choices.rule == rule) {
      return first_word(choices.words, text);
    }
  }
  return last_number(text);
}

bool is_same_answer(AnswerRule rule, std::string_view answer, std::string_view gold) {
  if (rule != AnswerRule::kLastNumber) {
    return answer == gold;
  }
  const auto a = parse_number(answer);
  const auto b = parse_number(gold);
  return a && b && std::abs(*a - *b) < kNumberTolerance;
}

std::optional<GoldAnswer> gold_answer(const Record& record) {
  if (record.answer) {
    for (const Choices& choices : all_choices()) {
      if (std::find(choices.words.begin(), choices.words.end(), *record.answer) != choices.words.end()) {
        return GoldAnswer{choices.rule, *record.answer};
      }
    }
    return parse_number(*record.answer) ? std::optional(GoldAnswer{AnswerRule::kLastNumber, *record.answer})
                                        : std::nullopt;
  }
  const AnswerRule rule = rule_of_format(record.prompt).value_or(AnswerRule::kLastNumber);
  const auto text = extract_answer(rule, record.completion);
  return text ? std::optional(GoldAnswer{rule, *text}) : std::nullopt;
}

void AnswerScore::add(const GoldAnswer& gold, std::string_view generated) {
  ++count;
  const auto answer = extract_answer(gold.rule, generated);
  if (!answer) {
    ++unparsed;
  } else if (is_same_answer(gold.rule, *answer, gold.text)) {
    ++correct;
  }
}

double AnswerScore::accuracy() const {
  return share(correct, count);
}

double AnswerScore::standard_error() const {
  const double p = accuracy();
  return std::sqrt(p * (1 - p) / static_cast<double>(count));
}

double AnswerScore::unparsed_share() const {
  return share(unparsed, count);
}

void AnswerEvaluation::add(const GoldAnswer& gold, std::string text) {
  const int64_t correct_before = score.correct;
  score.add(gold, text);
  auto answer = extract_answer(gold.rule, text);
  predictions.push_back({std::move(text), std::move(answer), gold, score.correct > correct_before});
}

} // namespace rora
