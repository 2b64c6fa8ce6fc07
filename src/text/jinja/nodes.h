#pragma once

#include "text/jinja/run.h"
#include "text/jinja/value.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rora::detail::jinja {

/// A part of a template that has a value.
class Expression {
 public:
  explicit Expression(Place place) : place(place) {}
  virtual ~Expression() = default;

  /// Its value; a `Failure` gets this place, where it has none yet.
  Value value(Run& run, const ScopePointer& scope) const;

  const Place place;

 protected:
  virtual Value evaluate(Run& run, const ScopePointer& scope) const = 0;
};

using ExpressionPointer = std::unique_ptr<const Expression>;

/// What a statement tells the loop that it stands in.
enum class Flow { kOn, kBreak, kContinue };

/// A part of a template that writes or sets something.
class Statement {
 public:
  explicit Statement(Place place) : place(place) {}
  virtual ~Statement() = default;

  Flow run(Run& run, const ScopePointer& scope) const;

  const Place place;

 protected:
  virtual Flow execute(Run& run, const ScopePointer& scope) const = 0;
};

using StatementPointer = std::unique_ptr<const Statement>;
using Block = std::vector<StatementPointer>;

/// Runs one statement after the other, up to one that leaves the loop.
Flow run_block(const Block& block, Run& run, const ScopePointer& scope);

/// `a`, `(a, b)` or `namespace.a`, to which a loop or `set` gives a value.
struct Target {
  std::string name; ///< empty: a tuple
  std::string attribute; ///< of the namespace `name`
  std::vector<Target> parts;
  Place place;

  void assign(Run& run, const ScopePointer& scope, const Value& value) const;
};

/// The arguments of a call, before they are evaluated.
struct ArgumentNodes {
  std::vector<ExpressionPointer> positional;
  std::vector<std::pair<std::string, ExpressionPointer>> named;
  ExpressionPointer all_positional; ///< *args
  ExpressionPointer all_named; ///< **kwargs

  Arguments evaluate(Run& run, const ScopePointer& scope) const;
};

/// The parameters and the body of a macro or a call block.
struct MacroNodes {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPointer>> parameters; ///< with their defaults, or null
  Block body;
  /// Which of the names that Jinja fills in the body uses.
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
};

/// A macro with the names that it sees; calling it gives what its body writes.
class Macro : public Object {
 public:
  Macro(const MacroNodes& nodes, ScopePointer scope) : nodes_(nodes), scope_(std::move(scope)) {}
  std::string text() const override {
    return "<Macro '" + nodes_.name + "'>";
  }
  Value attribute(const std::string& name) const override;
  Value call(Run& run, const Arguments& arguments) override;
  bool is_callable() const override {
    return true;
  }

 private:
  const MacroNodes& nodes_;
  ScopePointer scope_;
};

/// What a filter does to its input, by `input | name(arguments)`.
using Filter = Value (*)(Run& run, const Value& input, const Arguments& arguments);
/// What `input is name(arguments)` asks.
using Test = bool (*)(Run& run, const Value& input, const Arguments& arguments);

/// Null where there is none of that name. Some filters take others by name (`map`, `selectattr`).
Filter find_filter(const std::string& name);
Test find_test(const std::string& name);

/// A method of a string or a dictionary, as an object that can be called, or an undefined value. Throws `Failure` for
/// one of Python's that is not supported.
Value method_of(Run& run, const Value& value, const std::string& name);

/// The functions that a template may call, by name; null where there is none.
Object* find_function(Run& run, const std::string& name);

/// Python's `format % arguments`.
std::string format_percent(Run& run, const std::string& format, const Value& arguments);
/// Python's `format.format(…)`, without format specifications.
std::string format_braces(Run& run, const std::string& format, const Arguments& arguments);

/// `a + b`, `-`, `*`, `/`, `//`, `%`, `**`.
Value arithmetic(Run& run, const std::string& operation, const Value& a, const Value& b);
/// `needle in haystack`.
bool contains(Run& run, const Value& haystack, const Value& needle);

} // namespace rora::detail::jinja
