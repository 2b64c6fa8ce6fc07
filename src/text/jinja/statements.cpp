#include "text/jinja/statements.h"

#include <algorithm>

namespace rora::detail::jinja {

namespace {

ScopePointer inside(Run& run, const ScopePointer& scope) {
  run.charge(4);
  return std::make_shared<Scope>(scope);
}

/// `loop` of a loop's body.
class Loop : public Object {
 public:
  Loop(
      const For& statement, ScopePointer scope, std::shared_ptr<const std::vector<Value>> items, int64_t depth,
      bool is_recursive)
      : statement_(statement),
        scope_(std::move(scope)),
        items_(std::move(items)),
        depth_(depth),
        is_recursive_(is_recursive) {}

  void go_to(size_t index) {
    index_ = index;
  }

  std::string text() const override {
    return "<LoopContext " + std::to_string(index_ + 1) + "/" + std::to_string(items_->size()) + ">";
  }

  bool is_callable() const override {
    return is_recursive_;
  }

  Value attribute(const std::string& name) const override {
    const size_t count = items_->size();
    if (name == "index" || name == "index0") {
      return Value(index_ + (name == "index" ? 1 : 0));
    }
    if (name == "revindex" || name == "revindex0") {
      return Value(count - index_ - (name == "revindex" ? 0 : 1));
    }
    if (name == "first" || name == "last") {
      return Value(index_ == (name == "first" ? 0 : count - 1));
    }
    if (name == "length") {
      return Value(count);
    }
    if (name == "depth" || name == "depth0") {
      return Value(depth_ + (name == "depth" ? 1 : 0));
    }
    if (name == "previtem") {
      return index_ > 0 ? (*items_)[index_ - 1] : Value::undefined("there is no previous item");
    }
    if (name == "nextitem") {
      return index_ + 1 < count ? (*items_)[index_ + 1] : Value::undefined("there is no next item");
    }
    if (name == "cycle" || name == "changed") {
      return Value(static_cast<Object*>(name == "cycle" ? &cycle_ : &changed_));
    }
    return Object::attribute(name);
  }

  Value call(Run& run, const Arguments& arguments) override {
    if (!is_recursive_) {
      throw Failure("the loop is not recursive: `recursive` stands at the end of its `for`");
    }
    const Value items = bind_arguments("loop", arguments, {"iterable"}, 1)[0];
    return Value(run.capture([&] { statement_.loop(run, scope_, items, depth_ + 1); }));
  }

  Value cycle(const Arguments& arguments) {
    if (arguments.positional.empty()) {
      throw Failure("no items for cycling given");
    }
    return arguments.positional[index_ % arguments.positional.size()];
  }

  Value changed(const Arguments& arguments) {
    Value now = Value::tuple(arguments.positional);
    const bool is_new = !has_last_ || !equal(last_, now);
    last_ = std::move(now);
    has_last_ = true;
    return Value(is_new);
  }

 private:
  /// `loop.cycle` or `loop.changed`.
  class Method : public Object {
   public:
    Method(Loop& loop, Value (Loop::*body)(const Arguments&)) : loop_(loop), body_(body) {}
    std::string text() const override {
      return "<bound method of " + loop_.text() + ">";
    }
    bool is_callable() const override {
      return true;
    }
    Value call(Run& run, const Arguments& arguments) override {
      for (const Value& each : arguments.positional) {
        run.charge(each.weight());
      }
      return (loop_.*body_)(arguments);
    }

   private:
    Loop& loop_;
    Value (Loop::*body_)(const Arguments&);
  };

  const For& statement_;
  ScopePointer scope_;
  std::shared_ptr<const std::vector<Value>> items_;
  int64_t depth_;
  bool is_recursive_;
  size_t index_ = 0;
  Value last_;
  bool has_last_ = false;
  mutable Method cycle_{*this, &Loop::cycle};
  mutable Method changed_{*this, &Loop::changed};
};

} // namespace

Flow Statement::run(Run& run, const ScopePointer& scope) const {
  try {
    const Run::Depth depth(run);
    run.charge(1);
    return execute(run, scope);
  } catch (Failure& failure) {
    if (failure.place.line == 0) {
      failure.place = place;
    }
    throw;
  }
}

Flow run_block(const Block& block, Run& run, const ScopePointer& scope) {
  for (const StatementPointer& statement : block) {
    if (const Flow flow = statement->run(run, scope); flow != Flow::kOn) {
      return flow;
    }
  }
  return Flow::kOn;
}

void Target::assign(Run& run, const ScopePointer& scope, const Value& value) const {
  if (!attribute.empty()) {
    auto* const space = dynamic_cast<Namespace*>(scope->find(name).object());
    if (space == nullptr) {
      throw Failure("cannot assign attribute on non-namespace object '" + name + "'");
    }
    space->set(attribute, value);
    return;
  }
  if (!name.empty()) {
    scope->set(name, value);
    return;
  }
  value.require_defined();
  const std::vector<Value> items = items_of(run, value);
  if (items.size() != parts.size()) {
    throw Failure(
        "expected " + std::to_string(parts.size()) + " values to unpack, found " + std::to_string(items.size()));
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].assign(run, scope, items[i]);
  }
}

Flow Data::execute(Run& run, const ScopePointer&) const {
  run.write(text_);
  return Flow::kOn;
}

Flow Print::execute(Run& run, const ScopePointer& scope) const {
  run.write(printed(run, expression_->value(run, scope)));
  return Flow::kOn;
}

Flow If::execute(Run& run, const ScopePointer& scope) const {
  for (const auto& [condition, block] : branches_) {
    if (condition == nullptr || condition->value(run, scope).truth()) {
      return run_block(block, run, scope);
    }
  }
  return Flow::kOn;
}

std::vector<Value> For::chosen_items(Run& run, const ScopePointer& scope, const Value& items) const {
  std::vector<Value> all = items_of(run, items);
  if (nodes_.condition == nullptr) {
    return all;
  }
  std::vector<Value> chosen;
  for (Value& each : all) {
    const ScopePointer own = inside(run, scope);
    nodes_.target.assign(run, own, each);
    if (nodes_.condition->value(run, own).truth()) {
      chosen.push_back(std::move(each));
    }
  }
  return chosen;
}

void For::loop(Run& run, const ScopePointer& scope, const Value& items, int64_t depth) const {
  const auto chosen = std::make_shared<const std::vector<Value>>(chosen_items(run, scope, items));
  if (chosen->empty()) {
    run_block(nodes_.otherwise, run, inside(run, scope));
    return;
  }
  auto* const loop = run.make<Loop>(*this, scope, chosen, depth, nodes_.is_recursive);
  for (size_t i = 0; i < chosen->size(); ++i) {
    loop->go_to(i);
    const ScopePointer own = inside(run, scope);
    own->set("loop", Value(loop));
    nodes_.target.assign(run, own, (*chosen)[i]);
    if (run_block(nodes_.body, run, own) == Flow::kBreak) {
      break;
    }
  }
}

Flow For::execute(Run& run, const ScopePointer& scope) const {
  loop(run, scope, nodes_.items->value(run, scope), 0);
  return Flow::kOn;
}

Flow Set::execute(Run& run, const ScopePointer& scope) const {
  target_.assign(run, scope, value_->value(run, scope));
  return Flow::kOn;
}

Flow Captured::execute(Run& run, const ScopePointer& scope) const {
  Value value(run.capture([&] { run_block(body_, run, inside(run, scope)); }));
  for (const auto& filter : filters_) {
    value = filter->filter_value(run, scope, value);
  }
  if (target_) {
    target_->assign(run, scope, value);
  } else {
    run.write(printed(run, value));
  }
  return Flow::kOn;
}

Flow With::execute(Run& run, const ScopePointer& scope) const {
  const ScopePointer own = inside(run, scope);
  for (const auto& [target, value] : names_) {
    target.assign(run, own, value->value(run, scope));
  }
  return run_block(body_, run, own);
}

Flow MacroStatement::execute(Run& run, const ScopePointer& scope) const {
  scope->set(nodes_.name, Value(run.make<Macro>(nodes_, scope)));
  return Flow::kOn;
}

Flow CallBlock::execute(Run& run, const ScopePointer& scope) const {
  Object* const caller = run.make<Macro>(caller_, scope);
  run.write(printed(run, call_->value_with_caller(run, scope, Value(caller))));
  return Flow::kOn;
}

Flow Generation::execute(Run& run, const ScopePointer& scope) const {
  run.generate([&] { run_block(body_, run, inside(run, scope)); });
  return Flow::kOn;
}

Value Macro::attribute(const std::string& name) const {
  return name == "name" ? Value(nodes_.name) : Object::attribute(name);
}

Value Macro::call(Run& run, const Arguments& arguments) {
  const ScopePointer own = inside(run, scope_);
  std::vector<std::string> names;
  for (const auto& parameter : nodes_.parameters) {
    names.push_back(parameter.first);
  }
  Arguments known;
  Dictionary other;
  Value caller = Value::undefined("no caller defined");
  for (const auto& [name, value] : arguments.named) {
    const bool is_parameter = std::find(names.begin(), names.end(), name) != names.end();
    if (name == "caller" && nodes_.uses_caller && !is_parameter) {
      caller = value;
    } else if (is_parameter || !nodes_.uses_kwargs) {
      known.named.emplace_back(name, value);
    } else {
      other.set(Value(name), value);
    }
  }
  const size_t taken = std::min(names.size(), arguments.positional.size());
  const bool has_rest = nodes_.uses_varargs;
  const auto middle = arguments.positional.begin() + static_cast<std::ptrdiff_t>(taken);
  known.positional.assign(arguments.positional.begin(), has_rest ? middle : arguments.positional.end());
  const std::vector<Value> values = bind_arguments("macro " + nodes_.name, known, names);
  for (size_t i = 0; i < names.size(); ++i) {
    const bool is_given = i < taken || std::any_of(known.named.begin(), known.named.end(), [&](const auto& argument) {
                            return argument.first == names[i];
                          });
    const ExpressionPointer& otherwise = nodes_.parameters[i].second;
    if (is_given) {
      own->set(names[i], values[i]);
    } else {
      own->set(
          names[i],
          otherwise != nullptr ? otherwise->value(run, own)
                               : Value::undefined("parameter '" + names[i] + "' was not provided"));
    }
  }
  if (nodes_.uses_caller) {
    own->set("caller", caller);
  }
  if (nodes_.uses_varargs) {
    own->set("varargs", Value::tuple({middle, arguments.positional.end()}));
  }
  if (nodes_.uses_kwargs) {
    own->set("kwargs", Value(std::move(other)));
  }
  return Value(run.capture([&] { run_block(nodes_.body, run, own); }));
}

} // namespace rora::detail::jinja
