#pragma once

#include "text/jinja/expressions.h"
#include "text/jinja/lexer.h"

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace rora::detail::jinja {

/// Reads the tokens of a template one after the other: the expressions, by Jinja's grammar.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  const Token& now() const {
    return tokens_[at_];
  }
  bool is(TokenKind kind, std::string_view text) const {
    return now().kind == kind && now().text == text;
  }
  bool is_operator(std::string_view text) const {
    return is(TokenKind::kOperator, text);
  }
  bool is_name(std::string_view text) const {
    return is(TokenKind::kName, text);
  }
  Token take() {
    return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_];
  }
  bool take_if(TokenKind kind, std::string_view text) {
    const bool found = is(kind, text);
    at_ += found ? 1 : 0;
    return found;
  }
  /// Throws `Failure` for another token.
  Token expect(TokenKind kind, std::string_view text = {});
  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] static void fail_at(Place place, const std::string& what);
  /// A token for messages.
  static std::string shown(const Token& token);

  /// Held while something is read that may go deeper. Throws `Failure` at 60 of them.
  class Depth {
   public:
    explicit Depth(ExpressionParser& parser);
    ~Depth() {
      --parser_.depth_;
    }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    ExpressionParser& parser_;
  };

  ExpressionPointer parse_expression(bool with_conditional = true);
  /// `a, b` is a tuple, `a` alone is not. Ends before a token that begins no expression.
  ExpressionPointer parse_tuple(bool with_conditional = true, bool in_parentheses = false);
  std::unique_ptr<FilterNode> parse_filter(ExpressionPointer input);
  std::unique_ptr<CallNode> parse_call(ExpressionPointer function);
  ExpressionPointer parse_unary(bool with_filters = true);
  ExpressionPointer parse_postfix(ExpressionPointer expression);

  /// The names that expressions have used since this was emptied: a macro asks for `caller` and its like.
  std::set<std::string> used_names_;

 private:
  /// Counts the steps of a chain, `a + b + c`, each of which makes the tree one deeper.
  void count_link(int& links) const;

  ExpressionPointer parse_logical(bool is_and);
  ExpressionPointer parse_not();
  ExpressionPointer parse_comparison();
  ExpressionPointer parse_binary(size_t level);
  ExpressionPointer parse_primary();
  ExpressionPointer parse_name();
  ExpressionPointer parse_list();
  ExpressionPointer parse_dictionary();
  ExpressionPointer parse_subscript(ExpressionPointer object);
  ExpressionPointer parse_filters(ExpressionPointer expression);
  ExpressionPointer parse_test(ExpressionPointer input);
  ArgumentNodes parse_arguments();
  bool ends_tuple() const;

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

} // namespace rora::detail::jinja
