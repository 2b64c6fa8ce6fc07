#pragma once

#include "text/jinja/expressions.h"
#include "text/jinja/nodes.h"

namespace rora::detail::jinja {

/// The text between tags.
class Data : public Statement {
 public:
  Data(Place place, std::string text) : Statement(place), text_(std::move(text)) {}

 private:
  Flow execute(Run& run, const ScopePointer& scope) const override;
  std::string text_;
};

/// `{{ expression }}`.
class Print : public Statement {
 public:
  Print(Place place, ExpressionPointer expression) : Statement(place), expression_(std::move(expression)) {}

 private:
  Flow execute(Run& run, const ScopePointer& scope) const override;
  ExpressionPointer expression_;
};

class If : public Statement {
 public:
  /// The first branch whose condition holds; a null one always does.
  using Branches = std::vector<std::pair<ExpressionPointer, Block>>;
  If(Place place, Branches branches) : Statement(place), branches_(std::move(branches)) {}

 private:
  Flow execute(Run& run, const ScopePointer& scope) const override;
  Branches branches_;
};

/// `{% for target in items if condition recursive %}body{% else %}otherwise{% endfor %}`.
struct ForNodes {
  Target target;
  ExpressionPointer items;
  ExpressionPointer condition; ///< may be null
  bool is_recursive = false;
  Block body;
  Block otherwise;
};

class For : public Statement {
 public:
  For(Place place, ForNodes nodes) : Statement(place), nodes_(std::move(nodes)) {}

  /// One loop over `items`, as `loop(items)` calls it again.
  void loop(Run& run, const ScopePointer& scope, const Value& items, int64_t depth) const;

 private:
  Flow execute(Run& run, const ScopePointer& scope) const override;
  std::vector<Value> chosen_items(Run& run, const ScopePointer& scope, const Value& items) const;
  ForNodes nodes_;
};

/// `{% set target = value %}`.
class Set : public Statement {
 public:
  Set(Place place, Target target, ExpressionPointer value)
      : Statement(place), target_(std::move(target)), value_(std::move(value)) {}

 private:
  Flow execute(Run& run, const ScopePointer& scope) const override;
  Target target_;
  ExpressionPointer value_;
};

/// What a block writes, through filters, the innermost first: written, or given to a target.
/// `{% filter upper %}…{% endfilter %}`, `{% set target | trim %}…{% endset %}`.
class Captured : public Statement {
 public:
  using Filters = std::vector<std::unique_ptr<const FilterNode>>;
  Captured(Place place, std::optional<Target> target, Filters filters, Block body)
      : Statement(place), target_(std::move(target)), filters_(std::move(filters)), body_(std::move(body)) {}

 private:
  Flow execute(Run& run, const ScopePointer& scope) const override;
  std::optional<Target> target_;
  Filters filters_;
  Block body_;
};

/// `{% with a = 1, b = 2 %}…{% endwith %}`: names of the block's own.
class With : public Statement {
 public:
  using Names = std::vector<std::pair<Target, ExpressionPointer>>;
  With(Place place, Names names, Block body) : Statement(place), names_(std::move(names)), body_(std::move(body)) {}

 private:
  Flow execute(Run& run, const ScopePointer& scope) const override;
  Names names_;
  Block body_;
};

class MacroStatement : public Statement {
 public:
  MacroStatement(Place place, MacroNodes nodes) : Statement(place), nodes_(std::move(nodes)) {}

 private:
  Flow execute(Run& run, const ScopePointer& scope) const override;
  MacroNodes nodes_;
};

/// `{% call(parameters) macro(arguments) %}…{% endcall %}`: the macro gets the block as `caller`.
class CallBlock : public Statement {
 public:
  CallBlock(Place place, MacroNodes caller, std::unique_ptr<const CallNode> call)
      : Statement(place), caller_(std::move(caller)), call_(std::move(call)) {}

 private:
  Flow execute(Run& run, const ScopePointer& scope) const override;
  MacroNodes caller_;
  std::unique_ptr<const CallNode> call_;
};

/// `{% generation %}…{% endgeneration %}`: what an assistant says.
class Generation : public Statement {
 public:
  Generation(Place place, Block body) : Statement(place), body_(std::move(body)) {}

 private:
  Flow execute(Run& run, const ScopePointer& scope) const override;
  Block body_;
};

/// `{% break %}` and `{% continue %}`.
class Leave : public Statement {
 public:
  Leave(Place place, Flow flow) : Statement(place), flow_(flow) {}

 private:
  Flow execute(Run&, const ScopePointer&) const override {
    return flow_;
  }
  Flow flow_;
};

} // namespace rora::detail::jinja
