#include "text/jinja/template.h"

#include "text/jinja/expression_parser.h"
#include "text/jinja/statements.h"

#include "checkpoint/quote.h"

#include <algorithm>

namespace rora::detail::jinja {

namespace {

/// Reads the statements of a template.
class StatementParser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Block parse() {
    Block block = parse_block({});
    if (now().kind != TokenKind::kEnd) {
      fail("unexpected " + shown(now()));
    }
    return block;
  }

  bool marks_generation() const {
    return marks_generation_;
  }

 private:
  using Names = std::vector<std::string>;

  /// Statements up to a tag that begins with one of `ends`, whose name is not taken yet, or to the template's end.
  Block parse_block(const Names& ends) {
    const Depth depth(*this);
    Block block;
    while (now().kind != TokenKind::kEnd) {
      if (now().kind == TokenKind::kData) {
        const Token data = take();
        block.push_back(std::make_unique<Data>(data.place, data.text));
      } else if (now().kind == TokenKind::kVariableBegin) {
        const Place place = take().place;
        block.push_back(std::make_unique<Print>(place, parse_tuple()));
        expect(TokenKind::kVariableEnd);
      } else {
        expect(TokenKind::kBlockBegin);
        if (std::find(ends.begin(), ends.end(), now().text) != ends.end()) {
          return block;
        }
        block.push_back(parse_statement());
        expect(TokenKind::kBlockEnd);
      }
    }
    if (!ends.empty()) {
      fail("expected " + quote(ends.back()) + ", found the template's end");
    }
    return block;
  }

  /// The block behind a tag, up to and with the name of its end.
  Block parse_body(const std::string& end) {
    expect(TokenKind::kBlockEnd);
    Block block = parse_block({end});
    take();
    return block;
  }

  StatementPointer parse_statement() {
    const Token name = expect(TokenKind::kName);
    const std::string& text = name.text;
    const Place place = name.place;
    if (text == "for") {
      return parse_for(place);
    }
    if (text == "if") {
      return parse_if(place);
    }
    if (text == "set") {
      return parse_set(place);
    }
    if (text == "with") {
      return parse_with(place);
    }
    if (text == "macro") {
      return parse_macro(place);
    }
    if (text == "call") {
      return parse_call_block(place);
    }
    if (text == "filter") {
      Captured::Filters filters = parse_filter_chain(/*has_first=*/true);
      Block body = outside_of_loops([&] { return parse_body("endfilter"); });
      return std::make_unique<Captured>(place, std::nullopt, std::move(filters), std::move(body));
    }
    if (text == "generation") {
      marks_generation_ = true;
      return std::make_unique<Generation>(place, outside_of_loops([&] { return parse_body("endgeneration"); }));
    }
    if (text == "break" || text == "continue") {
      if (loops_ == 0) {
        fail_at(place, quote(text) + " outside of a loop");
      }
      return std::make_unique<Leave>(place, text == "break" ? Flow::kBreak : Flow::kContinue);
    }
    fail_at(place, "the tag " + quote(text) + " is not supported here");
  }

  /// What `parse` reads cannot leave a loop that stands around it.
  template <typename Parse>
  Block outside_of_loops(Parse parse) {
    const int loops = std::exchange(loops_, 0);
    Block block = parse();
    loops_ = loops;
    return block;
  }

  Target parse_target(bool with_attribute) {
    std::vector<Target> parts;
    const Place place = now().place;
    bool is_tuple = false;
    do {
      if (!parts.empty() && now().kind != TokenKind::kName && !is_operator("(")) {
        break; // a comma at the end
      }
      parts.push_back(parse_single_target(with_attribute));
      is_tuple = is_tuple || is_operator(",");
    } while (take_if(TokenKind::kOperator, ","));
    if (!is_tuple) {
      return std::move(parts.front());
    }
    Target target;
    target.parts = std::move(parts);
    target.place = place;
    return target;
  }

  Target parse_single_target(bool with_attribute) {
    const Depth depth(*this);
    if (take_if(TokenKind::kOperator, "(")) {
      Target target = parse_target(with_attribute);
      expect(TokenKind::kOperator, ")");
      return target;
    }
    Target target;
    const Token name = expect(TokenKind::kName);
    static const Names kConstants = {"true", "false", "none", "True", "False", "None"};
    if (std::find(kConstants.begin(), kConstants.end(), name.text) != kConstants.end()) {
      fail_at(name.place, "cannot assign to " + quote(name.text));
    }
    target.place = name.place;
    target.name = name.text;
    if (with_attribute && take_if(TokenKind::kOperator, ".")) {
      target.attribute = expect(TokenKind::kName).text;
    }
    return target;
  }

  StatementPointer parse_for(Place place) {
    ForNodes nodes;
    nodes.target = parse_target(false);
    expect(TokenKind::kName, "in");
    nodes.items = parse_tuple(/*with_conditional=*/false);
    if (take_if(TokenKind::kName, "if")) {
      nodes.condition = parse_expression();
    }
    nodes.is_recursive = take_if(TokenKind::kName, "recursive");
    expect(TokenKind::kBlockEnd);
    ++loops_;
    nodes.body = parse_block({"else", "endfor"});
    --loops_;
    if (take().text == "else") {
      nodes.otherwise = parse_body("endfor");
    }
    return std::make_unique<For>(place, std::move(nodes));
  }

  StatementPointer parse_if(Place place) {
    If::Branches branches;
    std::string name = "if";
    while (name != "endif") {
      ExpressionPointer condition = name == "else" ? nullptr : parse_tuple(/*with_conditional=*/false);
      expect(TokenKind::kBlockEnd);
      const Names ends = name == "else" ? Names{"endif"} : Names{"elif", "else", "endif"};
      branches.emplace_back(std::move(condition), parse_block(ends));
      name = take().text;
    }
    return std::make_unique<If>(place, std::move(branches));
  }

  StatementPointer parse_set(Place place) {
    Target target = parse_target(/*with_attribute=*/true);
    if (take_if(TokenKind::kOperator, "=")) {
      return std::make_unique<Set>(place, std::move(target), parse_tuple());
    }
    Captured::Filters filters = parse_filter_chain(/*has_first=*/false);
    Block body = outside_of_loops([&] { return parse_body("endset"); });
    return std::make_unique<Captured>(place, std::move(target), std::move(filters), std::move(body));
  }

  /// `upper | trim` of a filter block, or `| trim` behind the name of a set block.
  Captured::Filters parse_filter_chain(bool has_first) {
    Captured::Filters filters;
    if (has_first) {
      filters.push_back(parse_filter(nullptr));
    }
    while (take_if(TokenKind::kOperator, "|")) {
      filters.push_back(parse_filter(nullptr));
    }
    return filters;
  }

  StatementPointer parse_with(Place place) {
    With::Names names;
    while (now().kind != TokenKind::kBlockEnd) {
      if (!names.empty()) {
        expect(TokenKind::kOperator, ",");
      }
      Target target = parse_single_target(false);
      expect(TokenKind::kOperator, "=");
      names.emplace_back(std::move(target), parse_expression());
    }
    return std::make_unique<With>(place, std::move(names), parse_body("endwith"));
  }

  void parse_parameters(MacroNodes& nodes) {
    expect(TokenKind::kOperator, "(");
    while (!take_if(TokenKind::kOperator, ")")) {
      if (!nodes.parameters.empty()) {
        expect(TokenKind::kOperator, ",");
      }
      const Token name = expect(TokenKind::kName);
      ExpressionPointer otherwise = take_if(TokenKind::kOperator, "=") ? parse_expression() : nullptr;
      if (otherwise == nullptr && !nodes.parameters.empty() && nodes.parameters.back().second != nullptr) {
        fail_at(name.place, "a parameter without a default behind one with a default");
      }
      nodes.parameters.emplace_back(name.text, std::move(otherwise));
      if (nodes.parameters.size() > 255) {
        fail_at(name.place, "a macro of over 255 parameters");
      }
    }
  }

  void parse_macro_body(MacroNodes& nodes, const std::string& end) {
    std::set<std::string> outer = std::exchange(used_names_, {});
    nodes.body = outside_of_loops([&] { return parse_body(end); });
    nodes.uses_varargs = used_names_.contains("varargs");
    nodes.uses_kwargs = used_names_.contains("kwargs");
    nodes.uses_caller = used_names_.contains("caller");
    used_names_.merge(outer);
  }

  StatementPointer parse_macro(Place place) {
    MacroNodes nodes;
    nodes.name = expect(TokenKind::kName).text;
    parse_parameters(nodes);
    parse_macro_body(nodes, "endmacro");
    return std::make_unique<MacroStatement>(place, std::move(nodes));
  }

  StatementPointer parse_call_block(Place place) {
    MacroNodes caller;
    caller.name = "caller";
    if (is_operator("(")) {
      parse_parameters(caller);
    }
    ExpressionPointer function = parse_callee();
    std::unique_ptr<CallNode> call = parse_call(std::move(function));
    parse_macro_body(caller, "endcall");
    return std::make_unique<CallBlock>(place, std::move(caller), std::move(call));
  }

  /// The name, with attributes, of the macro that a call block calls.
  ExpressionPointer parse_callee() {
    const Token name = expect(TokenKind::kName);
    used_names_.insert(name.text);
    ExpressionPointer callee = std::make_unique<Name>(name.place, name.text);
    while (take_if(TokenKind::kOperator, ".")) {
      const Token attribute = expect(TokenKind::kName);
      callee = std::make_unique<AttributeNode>(attribute.place, std::move(callee), attribute.text);
    }
    return callee;
  }

  int loops_ = 0; ///< around what is read, up to the next macro
  bool marks_generation_ = false;
};

} // namespace

Template::Template(std::string_view source) {
  StatementParser parser(tokenize(source));
  block_ = parser.parse();
  marks_generation_ = parser.marks_generation();
}

Template::Rendering Template::render(const std::vector<std::pair<std::string, Value>>& names, std::time_t now) const {
  size_t weight = 0;
  const auto scope = std::make_shared<Scope>(nullptr);
  for (const auto& [name, value] : names) {
    scope->set(name, value);
    weight += value.weight();
  }
  // Enough for templates that go through all messages for each of them; a fraction of a second for a short chat, and a
  // second or two for the longest.
  Run run(std::min((size_t{1} << 22) + 4096 * weight, (size_t{1} << 25) + 64 * weight), now);
  run_block(block_, run, scope);
  return {run.output(), run.generated()};
}

} // namespace rora::detail::jinja
