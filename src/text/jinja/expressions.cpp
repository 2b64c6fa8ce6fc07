#include "text/jinja/expressions.h"

#include <algorithm>

namespace rora::detail::jinja {

Value Expression::value(Run& run, const ScopePointer& scope) const {
  try {
    const Run::Depth depth(run);
    run.charge(1);
    return evaluate(run, scope);
  } catch (Failure& failure) {
    if (failure.place.line == 0) {
      failure.place = place;
    }
    throw;
  }
}

Arguments ArgumentNodes::evaluate(Run& run, const ScopePointer& scope) const {
  Arguments arguments;
  for (const ExpressionPointer& node : positional) {
    arguments.positional.push_back(node->value(run, scope));
  }
  if (all_positional != nullptr) {
    const std::vector<Value> items = items_of(run, all_positional->value(run, scope));
    arguments.positional.insert(arguments.positional.end(), items.begin(), items.end());
  }
  for (const auto& [name, node] : named) {
    arguments.named.emplace_back(name, node->value(run, scope));
  }
  if (all_named != nullptr) {
    const Value rest = all_named->value(run, scope);
    if (rest.dictionary() == nullptr) {
      rest.require_defined();
      throw Failure("the argument behind ** must be a mapping, found " + rest.type_name());
    }
    for (const auto& [key, value] : rest.dictionary()->entries()) {
      if (!key.is_string()) {
        throw Failure("keywords must be strings, found " + key.type_name());
      }
      run.charge(1);
      arguments.named.emplace_back(key.string(), value);
    }
  }
  return arguments;
}

Value Name::evaluate(Run& run, const ScopePointer& scope) const {
  Value value = scope->find(name_);
  if (value.is_undefined()) {
    if (Object* const function = find_function(run, name_)) {
      return Value(function);
    }
  }
  return value;
}

Value SequenceNode::evaluate(Run& run, const ScopePointer& scope) const {
  std::vector<Value> items;
  for (const ExpressionPointer& node : items_) {
    items.push_back(node->value(run, scope));
  }
  return is_tuple_ ? Value::tuple(std::move(items)) : Value::list(std::move(items));
}

Value DictionaryNode::evaluate(Run& run, const ScopePointer& scope) const {
  Dictionary dictionary;
  for (const auto& [key_node, value_node] : entries_) {
    const Value key = key_node->value(run, scope);
    run.charge(key.is_string() ? key.weight() : dictionary.weight());
    dictionary.set(key, value_node->value(run, scope));
  }
  return Value(std::move(dictionary));
}

Value AttributeNode::evaluate(Run& run, const ScopePointer& scope) const {
  return attribute(run, object_->value(run, scope), name_);
}

Value ItemNode::evaluate(Run& run, const ScopePointer& scope) const {
  const Value object = object_->value(run, scope);
  return item(run, object, key_->value(run, scope));
}

Value SliceNode::evaluate(Run& run, const ScopePointer& scope) const {
  const auto bound = [&](const ExpressionPointer& node) {
    return node == nullptr ? Value(None{}) : node->value(run, scope);
  };
  const Value object = object_->value(run, scope);
  return slice(run, object, bound(begin_), bound(end_), bound(step_));
}

Value CallNode::evaluate(Run& run, const ScopePointer& scope) const {
  const Value function = function_->value(run, scope);
  return call(run, function, arguments_.evaluate(run, scope));
}

Value CallNode::value_with_caller(Run& run, const ScopePointer& scope, Value caller) const {
  const Value function = function_->value(run, scope);
  Arguments arguments = arguments_.evaluate(run, scope);
  arguments.named.emplace_back("caller", std::move(caller));
  return call(run, function, arguments);
}

Value FilterNode::evaluate(Run& run, const ScopePointer& scope) const {
  return filter_value(run, scope, input_->value(run, scope));
}

Value FilterNode::filter_value(Run& run, const ScopePointer& scope, const Value& input) const {
  return filter_(run, input, arguments_.evaluate(run, scope));
}

Value TestNode::evaluate(Run& run, const ScopePointer& scope) const {
  const Value input = input_->value(run, scope);
  return Value(test_(run, input, arguments_.evaluate(run, scope)));
}

Value Conditional::evaluate(Run& run, const ScopePointer& scope) const {
  if (condition_->value(run, scope).truth()) {
    return then_->value(run, scope);
  }
  return otherwise_ != nullptr
      ? otherwise_->value(run, scope)
      : Value::undefined("the inline if-expression evaluated to false and no else section was defined");
}

Value Logical::evaluate(Run& run, const ScopePointer& scope) const {
  Value a = a_->value(run, scope);
  return a.truth() == is_and_ ? b_->value(run, scope) : a;
}

Value Unary::evaluate(Run& run, const ScopePointer& scope) const {
  const Value operand = operand_->value(run, scope);
  if (operation_ == "not") {
    return Value(!operand.truth());
  }
  operand.require_defined();
  if (!operand.is_number()) {
    throw Failure("bad operand type for unary " + operation_ + ": '" + operand.type_name() + "'");
  }
  return arithmetic(
      run, operation_, operand.is_float() ? Value(operation_ == "-" ? -0.0 : 0.0) : Value(int64_t{0}), operand);
}

Value Binary::evaluate(Run& run, const ScopePointer& scope) const {
  const Value a = a_->value(run, scope);
  const Value b = b_->value(run, scope);
  if (operation_ != "~") {
    return arithmetic(run, operation_, a, b);
  }
  return Value(printed(run, a) + printed(run, b));
}

Value Comparison::evaluate(Run& run, const ScopePointer& scope) const {
  const auto holds = [&](const std::string& operation, const Value& a, const Value& b) {
    run.charge(std::min(a.weight(), b.weight()));
    if (operation == "==" || operation == "!=") {
      return equal(a, b) == (operation == "==");
    }
    if (operation == "in" || operation == "not in") {
      return contains(run, b, a) == (operation == "in");
    }
    const bool swapped = operation[0] == '>';
    const Value& left = swapped ? b : a;
    const Value& right = swapped ? a : b;
    return less(left, right) || (operation.size() == 2 && equal(left, right));
  };
  Value left = first_->value(run, scope);
  for (const auto& [operation, node] : steps_) {
    Value right = node->value(run, scope);
    if (!holds(operation, left, right)) {
      return Value(false);
    }
    left = std::move(right);
  }
  return Value(true);
}

} // namespace rora::detail::jinja
