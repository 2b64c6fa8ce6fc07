#pragma once

#include "text/jinja/nodes.h"

namespace rora::detail::jinja {

class Constant : public Expression {
 public:
  Constant(Place place, Value value) : Expression(place), value_(std::move(value)) {}

 private:
  Value evaluate(Run&, const ScopePointer&) const override {
    return value_;
  }
  Value value_;
};

class Name : public Expression {
 public:
  Name(Place place, std::string name) : Expression(place), name_(std::move(name)) {}

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  std::string name_;
};

/// `[a, b]`, or the tuple `(a, b)`.
class SequenceNode : public Expression {
 public:
  SequenceNode(Place place, std::vector<ExpressionPointer> items, bool is_tuple)
      : Expression(place), items_(std::move(items)), is_tuple_(is_tuple) {}

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  std::vector<ExpressionPointer> items_;
  bool is_tuple_;
};

class DictionaryNode : public Expression {
 public:
  using Entries = std::vector<std::pair<ExpressionPointer, ExpressionPointer>>;
  DictionaryNode(Place place, Entries entries) : Expression(place), entries_(std::move(entries)) {}

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  Entries entries_;
};

/// `object.name`.
class AttributeNode : public Expression {
 public:
  AttributeNode(Place place, ExpressionPointer object, std::string name)
      : Expression(place), object_(std::move(object)), name_(std::move(name)) {}

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  ExpressionPointer object_;
  std::string name_;
};

/// `object[key]`.
class ItemNode : public Expression {
 public:
  ItemNode(Place place, ExpressionPointer object, ExpressionPointer key)
      : Expression(place), object_(std::move(object)), key_(std::move(key)) {}

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  ExpressionPointer object_;
  ExpressionPointer key_;
};

/// `object[begin:end:step]`, each of which may be null.
class SliceNode : public Expression {
 public:
  SliceNode(
      Place place, ExpressionPointer object, ExpressionPointer begin, ExpressionPointer end, ExpressionPointer step)
      : Expression(place),
        object_(std::move(object)),
        begin_(std::move(begin)),
        end_(std::move(end)),
        step_(std::move(step)) {}

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  ExpressionPointer object_;
  ExpressionPointer begin_;
  ExpressionPointer end_;
  ExpressionPointer step_;
};

class CallNode : public Expression {
 public:
  CallNode(Place place, ExpressionPointer function, ArgumentNodes arguments)
      : Expression(place), function_(std::move(function)), arguments_(std::move(arguments)) {}

  /// The call with one more named argument, `caller`.
  Value value_with_caller(Run& run, const ScopePointer& scope, Value caller) const;

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  ExpressionPointer function_;
  ArgumentNodes arguments_;
};

/// `input | filter(arguments)`.
class FilterNode : public Expression {
 public:
  /// `input` null: what `filter_value` is given, as in `{% filter upper %}`.
  FilterNode(Place place, ExpressionPointer input, Filter filter, ArgumentNodes arguments)
      : Expression(place), input_(std::move(input)), filter_(filter), arguments_(std::move(arguments)) {}

  Value filter_value(Run& run, const ScopePointer& scope, const Value& input) const;

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  ExpressionPointer input_;
  Filter filter_;
  ArgumentNodes arguments_;
};

/// `input is test(arguments)`.
class TestNode : public Expression {
 public:
  TestNode(Place place, ExpressionPointer input, Test test, ArgumentNodes arguments)
      : Expression(place), input_(std::move(input)), test_(test), arguments_(std::move(arguments)) {}

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  ExpressionPointer input_;
  Test test_;
  ArgumentNodes arguments_;
};

/// `a if condition else b`; without else, an undefined value.
class Conditional : public Expression {
 public:
  Conditional(Place place, ExpressionPointer condition, ExpressionPointer then, ExpressionPointer otherwise)
      : Expression(place), condition_(std::move(condition)), then_(std::move(then)), otherwise_(std::move(otherwise)) {}

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  ExpressionPointer condition_;
  ExpressionPointer then_;
  ExpressionPointer otherwise_;
};

/// `a and b`, `a or b`: the value of the one that decides.
class Logical : public Expression {
 public:
  Logical(Place place, bool is_and, ExpressionPointer a, ExpressionPointer b)
      : Expression(place), is_and_(is_and), a_(std::move(a)), b_(std::move(b)) {}

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  bool is_and_;
  ExpressionPointer a_;
  ExpressionPointer b_;
};

/// `not a`, `-a`, `+a`.
class Unary : public Expression {
 public:
  Unary(Place place, std::string operation, ExpressionPointer operand)
      : Expression(place), operation_(std::move(operation)), operand_(std::move(operand)) {}

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  std::string operation_;
  ExpressionPointer operand_;
};

/// `a + b` and its like, and `a ~ b`, which joins texts.
class Binary : public Expression {
 public:
  Binary(Place place, std::string operation, ExpressionPointer a, ExpressionPointer b)
      : Expression(place), operation_(std::move(operation)), a_(std::move(a)), b_(std::move(b)) {}

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  std::string operation_;
  ExpressionPointer a_;
  ExpressionPointer b_;
};

/// `a < b <= c`, `a in b`: all of them must hold.
class Comparison : public Expression {
 public:
  using Steps = std::vector<std::pair<std::string, ExpressionPointer>>;
  Comparison(Place place, ExpressionPointer first, Steps steps)
      : Expression(place), first_(std::move(first)), steps_(std::move(steps)) {}

 private:
  Value evaluate(Run& run, const ScopePointer& scope) const override;
  ExpressionPointer first_;
  Steps steps_;
};

} // namespace rora::detail::jinja
