#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace rora::detail::jinja {

/// Where something stands in a template, from 1.
struct Place {
  size_t line = 0; ///< 0: not known yet
  size_t column = 0;
};

/// What a template does that cannot be gone on with. Who throws it need not know the place: the node that is evaluated
/// adds its own.
class Failure : public std::runtime_error {
 public:
  enum class Kind {
    kMalformed, ///< the template is not Jinja, or asks for a part of it that is not here
    kRuntime, ///< the template does something with these messages that Jinja refuses
    kRaised, ///< `raise_exception`: the template refuses these messages itself
    kTooMuch, ///< it takes too many steps, too much memory, or goes too deep
  };
  Failure(Kind kind, const std::string& what, Place place = {}) : runtime_error(what), kind(kind), place(place) {}
  explicit Failure(const std::string& what) : Failure(Kind::kRuntime, what) {}

  Kind kind;
  Place place;
};

class Value;
class Run;
struct Arguments;

/// A list, or a tuple, which differs where it is printed or compared.
struct Sequence;
/// Keys and values in the order of insertion, as Python's dict.
class Dictionary;

/// What lives as long as the rendering and is known by its address: a namespace, a macro, a loop, a method.
class Object {
 public:
  virtual ~Object() = default;
  /// As Python's `repr`, roughly.
  virtual std::string text() const = 0;
  /// The attribute, or an undefined value.
  virtual Value attribute(const std::string& name) const;
  /// Throws `Failure` for what cannot be called.
  virtual Value call(Run& run, const Arguments& arguments);
  virtual bool is_callable() const {
    return false;
  }
};

struct Undefined {
  std::shared_ptr<const std::string> what; ///< "'x' is undefined"
};
struct None {};

/// A value of a template, with Python's meaning. Strings, sequences and dictionaries are shared and never change, as in
/// the immutable sandbox in which transformers renders.
class Value {
 public:
  using String = std::shared_ptr<const std::string>;
  using Variant = std::variant<
      Undefined, None, bool, int64_t, double, String, std::shared_ptr<const Sequence>,
      std::shared_ptr<const Dictionary>, Object*>;

  Value() = default;
  Value(None none) : value_(none) {}
  Value(bool value) : value_(value) {}
  Value(int64_t value) : value_(value) {}
  Value(size_t value) : value_(static_cast<int64_t>(value)) {}
  Value(double value) : value_(value) {}
  Value(std::string value) : value_(std::make_shared<const std::string>(std::move(value))) {}
  Value(const char* value) : Value(std::string(value)) {}
  Value(std::string_view value) : Value(std::string(value)) {}
  Value(Object* object) : value_(object) {}
  Value(std::shared_ptr<const Dictionary> dictionary) : value_(std::move(dictionary)) {}
  Value(std::shared_ptr<const Sequence> sequence);
  Value(Dictionary dictionary);
  static Value undefined(std::string what);
  static Value list(std::vector<Value> items);
  static Value tuple(std::vector<Value> items);
  /// What Python has as a generator: it can be gone through, and is true; it has no length, no elements and no text.
  static Value generator(std::vector<Value> items);

  bool is_undefined() const {
    return std::holds_alternative<Undefined>(value_);
  }
  bool is_none() const {
    return std::holds_alternative<None>(value_);
  }
  bool is_bool() const {
    return std::holds_alternative<bool>(value_);
  }
  bool is_string() const {
    return std::holds_alternative<String>(value_);
  }
  bool is_float() const {
    return std::holds_alternative<double>(value_);
  }
  /// An integer in Python's sense: a boolean is one.
  bool is_integer() const {
    return std::holds_alternative<int64_t>(value_) || is_bool();
  }
  bool is_number() const {
    return is_integer() || is_float();
  }
  /// These give null where the value is something else.
  const Sequence* sequence() const;
  const Dictionary* dictionary() const;
  Object* object() const;

  /// Of a string or a number; what it is must have been asked for.
  const std::string& string() const {
    return *std::get<String>(value_);
  }
  int64_t integer() const;
  double number() const;

  const Variant& variant() const {
    return value_;
  }

  /// How many containers lie in each other here at most; one deeper than 100 is refused where it is made.
  int depth() const;
  /// About how many steps it takes to print the value or to compare it: shared parts count each time. A container over
  /// 4 million is refused where it is made.
  size_t weight() const;
  /// Python's `bool(value)`.
  bool truth() const;
  /// Python's `str(value)` and `repr(value)`; an undefined value prints as nothing.
  std::string text() const;
  std::string repr() const;
  /// Python's name of the type, for messages.
  std::string type_name() const;
  /// Throws the `Failure` of an undefined value that is used.
  void require_defined() const;

 private:
  Variant value_;
};

bool equal(const Value& a, const Value& b);
/// Python's a < b. Throws `Failure` for types that have no order.
bool less(const Value& a, const Value& b);

struct Sequence {
  std::vector<Value> items;
  bool is_tuple = false;
  bool is_generator = false;
  int depth = 1;
  size_t weight = 1;
};

class Dictionary {
 public:
  /// Replaces the value of a key that is there already. Throws `Failure` for a key that Python cannot hash.
  void set(const Value& key, Value value);
  /// Null where there is no such key.
  const Value* find(const Value& key) const;
  const Value* find(const std::string& key) const;
  const std::vector<std::pair<Value, Value>>& entries() const {
    return entries_;
  }
  int depth() const {
    return depth_;
  }
  size_t weight() const {
    return weight_;
  }

 private:
  std::vector<std::pair<Value, Value>> entries_;
  std::unordered_map<std::string, size_t> by_string_;
  int depth_ = 1;
  size_t weight_ = 1;
};

/// The arguments of a call, a filter or a test.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// The arguments as the parameters `names` take them; an absent one is an undefined value. Throws `Failure`, naming
/// `function`, for too many, unknown or doubled ones, and where fewer than `required` are there.
std::vector<Value> bind_arguments(
    const std::string& function, const Arguments& arguments, const std::vector<std::string>& names,
    size_t required = 0);

/// A number as Python prints it.
std::string text_of(double number);

/// Python's `json.dumps(value, ensure_ascii=False, …)`; `indent` below 0 writes one line.
struct JsonStyle {
  int64_t indent = -1;
  std::string item_separator; ///< empty: ", ", or "," where lines are indented
  std::string key_separator = ": ";
  bool sort_keys = false;
  bool ensure_ascii = false;
};
std::string to_json(const Value& value, const JsonStyle& style);

} // namespace rora::detail::jinja
