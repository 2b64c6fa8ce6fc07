#include "text/jinja/expression_parser.h"

#include "checkpoint/quote.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>

namespace rora::detail::jinja {

namespace {

// The operators between two operands, from those that bind least: those of `parse_binary`'s levels.
constexpr size_t kLevels = 4;
bool is_of_level(size_t level, std::string_view operation) {
  constexpr std::array<std::string_view, kLevels> kOperators = {"+ -", "~", "* / // %", "**"};
  const std::string_view all = kOperators.at(level);
  const size_t found = all.find(operation);
  const auto ends = [&](size_t at) { return at == all.size() || all[at] == ' '; };
  return found != std::string_view::npos && ends(found + operation.size());
}

} // namespace

ExpressionParser::Depth::Depth(ExpressionParser& parser) : parser_(parser) {
  if (parser.depth_ == 60) {
    throw Failure(Failure::Kind::kTooMuch, "it is nested deeper than 60 levels", parser.now().place);
  }
  ++parser.depth_;
}

void ExpressionParser::fail(const std::string& what) const {
  fail_at(now().place, what);
}

void ExpressionParser::fail_at(Place place, const std::string& what) {
  throw Failure(Failure::Kind::kMalformed, what, place);
}

std::string ExpressionParser::shown(const Token& token) {
  switch (token.kind) {
    case TokenKind::kEnd:
      return "the template's end";
    case TokenKind::kBlockEnd:
      return "'%}'";
    case TokenKind::kVariableEnd:
      return "'}}'";
    case TokenKind::kString:
      return "the string " + quote(token.text);
    default:
      return quote(token.text);
  }
}

Token ExpressionParser::expect(TokenKind kind, std::string_view text) {
  if (now().kind != kind || (!text.empty() && now().text != text)) {
    Token wanted;
    wanted.kind = kind;
    wanted.text = std::string(text);
    fail(
        "expected " + (kind == TokenKind::kName && text.empty() ? "a name" : shown(wanted)) + ", found " +
        shown(now()));
  }
  return take();
}

void ExpressionParser::count_link(int& links) const {
  if (++links > 128) {
    throw Failure(Failure::Kind::kTooMuch, "an expression has over 128 parts in a row", now().place);
  }
}

ExpressionPointer ExpressionParser::parse_expression(bool with_conditional) {
  const Depth depth(*this);
  ExpressionPointer expression = parse_logical(false);
  int links = 0;
  while (with_conditional && is_name("if")) {
    count_link(links);
    const Place place = take().place;
    ExpressionPointer condition = parse_logical(false);
    ExpressionPointer otherwise = take_if(TokenKind::kName, "else") ? parse_expression() : nullptr;
    expression =
        std::make_unique<Conditional>(place, std::move(condition), std::move(expression), std::move(otherwise));
  }
  return expression;
}

ExpressionPointer ExpressionParser::parse_logical(bool is_and) {
  ExpressionPointer left = is_and ? parse_not() : parse_logical(true);
  int links = 0;
  while (is_name(is_and ? "and" : "or")) {
    count_link(links);
    const Place place = take().place;
    left = std::make_unique<Logical>(place, is_and, std::move(left), is_and ? parse_not() : parse_logical(true));
  }
  return left;
}

ExpressionPointer ExpressionParser::parse_not() {
  if (!is_name("not")) {
    return parse_comparison();
  }
  const Depth depth(*this);
  const Place place = take().place;
  return std::make_unique<Unary>(place, "not", parse_not());
}

ExpressionPointer ExpressionParser::parse_comparison() {
  static constexpr std::array<std::string_view, 6> kOperators = {"==", "!=", "<", "<=", ">", ">="};
  const Place place = now().place;
  ExpressionPointer first = parse_binary(0);
  Comparison::Steps steps;
  while (true) {
    std::string operation;
    if (now().kind == TokenKind::kOperator &&
        std::find(kOperators.begin(), kOperators.end(), now().text) != kOperators.end()) {
      operation = take().text;
    } else if (take_if(TokenKind::kName, "in")) {
      operation = "in";
    } else if (is_name("not") && tokens_[at_ + 1].kind == TokenKind::kName && tokens_[at_ + 1].text == "in") {
      at_ += 2;
      operation = "not in";
    } else {
      break;
    }
    steps.emplace_back(operation, parse_binary(0));
  }
  return steps.empty() ? std::move(first) : std::make_unique<Comparison>(place, std::move(first), std::move(steps));
}

ExpressionPointer ExpressionParser::parse_binary(size_t level) {
  const auto operand = [&] { return level + 1 < kLevels ? parse_binary(level + 1) : parse_unary(); };
  ExpressionPointer left = operand();
  int links = 0;
  while (now().kind == TokenKind::kOperator && is_of_level(level, now().text)) {
    count_link(links);
    const Token operation = take();
    left = std::make_unique<Binary>(operation.place, operation.text, std::move(left), operand());
  }
  return left;
}

ExpressionPointer ExpressionParser::parse_unary(bool with_filters) {
  const Depth depth(*this);
  ExpressionPointer expression;
  if (is_operator("-") || is_operator("+")) {
    const Token sign = take();
    expression = std::make_unique<Unary>(sign.place, sign.text, parse_unary(false));
  } else {
    expression = parse_primary();
  }
  expression = parse_postfix(std::move(expression));
  return with_filters ? parse_filters(std::move(expression)) : std::move(expression);
}

ExpressionPointer ExpressionParser::parse_primary() {
  const Token token = now();
  const auto constant = [&](Value value) { return std::make_unique<Constant>(token.place, std::move(value)); };
  switch (token.kind) {
    case TokenKind::kName:
      return parse_name();
    case TokenKind::kString: {
      std::string text;
      while (now().kind == TokenKind::kString) {
        text += take().text;
      }
      return constant(Value(std::move(text)));
    }
    case TokenKind::kInteger: {
      take();
      int64_t value = 0;
      const auto end = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      if (end.ec != std::errc()) {
        fail_at(token.place, "an integer beyond 64 bits is not supported");
      }
      return constant(Value(value));
    }
    case TokenKind::kFloat:
      take();
      return constant(Value(std::strtod(token.text.c_str(), nullptr)));
    default:
      break;
  }
  if (take_if(TokenKind::kOperator, "(")) {
    ExpressionPointer tuple = parse_tuple(/*with_conditional=*/true, /*in_parentheses=*/true);
    expect(TokenKind::kOperator, ")");
    return tuple;
  }
  if (is_operator("[")) {
    return parse_list();
  }
  if (is_operator("{")) {
    return parse_dictionary();
  }
  fail("expected an expression, found " + shown(token));
}

ExpressionPointer ExpressionParser::parse_name() {
  const Token token = take();
  const std::string& name = token.text;
  if (name == "true" || name == "True" || name == "false" || name == "False") {
    return std::make_unique<Constant>(token.place, Value(name == "true" || name == "True"));
  }
  if (name == "none" || name == "None") {
    return std::make_unique<Constant>(token.place, Value(None{}));
  }
  used_names_.insert(name);
  return std::make_unique<Name>(token.place, name);
}

ExpressionPointer ExpressionParser::parse_list() {
  const Place place = take().place;
  std::vector<ExpressionPointer> items;
  while (!take_if(TokenKind::kOperator, "]")) {
    if (!items.empty()) {
      expect(TokenKind::kOperator, ",");
      if (take_if(TokenKind::kOperator, "]")) {
        break;
      }
    }
    items.push_back(parse_expression());
  }
  return std::make_unique<SequenceNode>(place, std::move(items), false);
}

ExpressionPointer ExpressionParser::parse_dictionary() {
  const Place place = take().place;
  DictionaryNode::Entries entries;
  while (!take_if(TokenKind::kOperator, "}")) {
    if (!entries.empty()) {
      expect(TokenKind::kOperator, ",");
      if (take_if(TokenKind::kOperator, "}")) {
        break;
      }
    }
    ExpressionPointer key = parse_expression();
    expect(TokenKind::kOperator, ":");
    entries.emplace_back(std::move(key), parse_expression());
  }
  return std::make_unique<DictionaryNode>(place, std::move(entries));
}

bool ExpressionParser::ends_tuple() const {
  return now().kind == TokenKind::kBlockEnd || now().kind == TokenKind::kVariableEnd || is_operator(")") ||
      is_name("recursive");
}

ExpressionPointer ExpressionParser::parse_tuple(bool with_conditional, bool in_parentheses) {
  const Place place = now().place;
  std::vector<ExpressionPointer> items;
  bool is_tuple = false;
  while (!ends_tuple()) {
    items.push_back(parse_expression(with_conditional));
    if (!take_if(TokenKind::kOperator, ",")) {
      break;
    }
    is_tuple = true;
  }
  if (items.empty() && !in_parentheses) {
    fail("expected an expression, found " + shown(now()));
  }
  if (items.size() == 1 && !is_tuple) {
    return std::move(items.front());
  }
  return std::make_unique<SequenceNode>(place, std::move(items), true);
}

ExpressionPointer ExpressionParser::parse_postfix(ExpressionPointer expression) {
  int links = 0;
  while (true) {
    if (is_operator(".") || is_operator("[")) {
      expression = parse_subscript(std::move(expression));
    } else if (is_operator("(")) {
      expression = parse_call(std::move(expression));
    } else {
      return expression;
    }
    count_link(links);
  }
}

ExpressionPointer ExpressionParser::parse_subscript(ExpressionPointer object) {
  const Token token = take();
  if (token.text == ".") {
    const Token key = take();
    if (key.kind == TokenKind::kName) {
      return std::make_unique<AttributeNode>(token.place, std::move(object), key.text);
    }
    if (key.kind != TokenKind::kInteger || key.text.size() > 9) {
      fail_at(key.place, "expected a name or a number, found " + shown(key));
    }
    return std::make_unique<ItemNode>(
        token.place, std::move(object), std::make_unique<Constant>(key.place, Value(int64_t{std::stoll(key.text)})));
  }
  std::array<ExpressionPointer, 3> parts;
  size_t count = 0;
  const auto parse_part = [&] {
    if (!is_operator(":") && !is_operator("]")) {
      parts.at(count) = parse_expression();
    }
  };
  parse_part();
  while (count < 2 && take_if(TokenKind::kOperator, ":")) {
    ++count;
    parse_part();
  }
  if (is_operator(",")) {
    fail("several keys in brackets are not supported");
  }
  expect(TokenKind::kOperator, "]");
  if (count == 0) {
    if (parts[0] == nullptr) {
      fail_at(token.place, "expected a key in the brackets");
    }
    return std::make_unique<ItemNode>(token.place, std::move(object), std::move(parts[0]));
  }
  return std::make_unique<SliceNode>(
      token.place, std::move(object), std::move(parts[0]), std::move(parts[1]), std::move(parts[2]));
}

ArgumentNodes ExpressionParser::parse_arguments() {
  expect(TokenKind::kOperator, "(");
  ArgumentNodes arguments;
  bool is_first = true;
  while (!take_if(TokenKind::kOperator, ")")) {
    if (!is_first) {
      expect(TokenKind::kOperator, ",");
      if (take_if(TokenKind::kOperator, ")")) {
        break;
      }
    }
    is_first = false;
    const Place place = now().place;
    const bool is_named =
        now().kind == TokenKind::kName && tokens_[at_ + 1].kind == TokenKind::kOperator && tokens_[at_ + 1].text == "=";
    const bool has_stars = arguments.all_positional != nullptr || arguments.all_named != nullptr;
    if (is_operator("*") || is_operator("**")) {
      ExpressionPointer& all = take().text == "*" ? arguments.all_positional : arguments.all_named;
      if (all != nullptr || arguments.all_named != nullptr) {
        fail_at(place, "invalid order of arguments");
      }
      all = parse_expression();
    } else if (is_named && arguments.all_named == nullptr) {
      const std::string name = take().text;
      take();
      arguments.named.emplace_back(name, parse_expression());
    } else if (has_stars || !arguments.named.empty()) {
      fail_at(place, "invalid order of arguments");
    } else {
      arguments.positional.push_back(parse_expression());
    }
  }
  return arguments;
}

std::unique_ptr<CallNode> ExpressionParser::parse_call(ExpressionPointer function) {
  const Place place = now().place;
  return std::make_unique<CallNode>(place, std::move(function), parse_arguments());
}

ExpressionPointer ExpressionParser::parse_filters(ExpressionPointer expression) {
  int links = 0;
  while (true) {
    if (is_operator("|")) {
      take();
      expression = parse_filter(std::move(expression));
    } else if (is_name("is")) {
      take();
      expression = parse_test(std::move(expression));
    } else if (is_operator("(")) {
      expression = parse_call(std::move(expression));
    } else {
      return expression;
    }
    count_link(links);
  }
}

std::unique_ptr<FilterNode> ExpressionParser::parse_filter(ExpressionPointer input) {
  const Token name = expect(TokenKind::kName);
  const Filter filter = find_filter(name.text);
  if (filter == nullptr) {
    fail_at(name.place, "the filter " + quote(name.text) + " is not supported");
  }
  ArgumentNodes arguments = is_operator("(") ? parse_arguments() : ArgumentNodes();
  return std::make_unique<FilterNode>(name.place, std::move(input), filter, std::move(arguments));
}

ExpressionPointer ExpressionParser::parse_test(ExpressionPointer input) {
  const bool is_not = take_if(TokenKind::kName, "not");
  const Token name = expect(TokenKind::kName);
  const Test test = find_test(name.text);
  if (test == nullptr) {
    fail_at(name.place, "the test " + quote(name.text) + " is not supported");
  }
  ArgumentNodes arguments;
  const bool is_word = is_name("else") || is_name("or") || is_name("and") || is_name("if") || is_name("recursive") ||
      is_name("not") || is_name("in");
  const bool begins_operand = (now().kind == TokenKind::kName && !is_word) || now().kind == TokenKind::kString ||
      now().kind == TokenKind::kInteger || now().kind == TokenKind::kFloat || is_operator("[") || is_operator("{");
  if (is_name("is")) {
    fail("tests cannot be chained with `is`");
  }
  if (is_operator("(")) {
    arguments = parse_arguments();
  } else if (begins_operand) {
    arguments.positional.push_back(parse_postfix(parse_primary()));
  }
  ExpressionPointer node = std::make_unique<TestNode>(name.place, std::move(input), test, std::move(arguments));
  return is_not ? std::make_unique<Unary>(name.place, "not", std::move(node)) : std::move(node);
}

} // namespace rora::detail::jinja
