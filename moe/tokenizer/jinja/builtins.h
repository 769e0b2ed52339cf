// The filters, tests, functions and methods that templates may call. What is not here is refused when a template is
// loaded, not when it runs.
#ifndef CONCLAVE_MOE_TOKENIZER_JINJA_BUILTINS_H_
#define CONCLAVE_MOE_TOKENIZER_JINJA_BUILTINS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/tokenizer/jinja/value.h"

namespace conclave::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // The argument at `index` or called `name`; null where there is none.
  const Value* Find(size_t index, absl::string_view name) const;
};

// In which of its four roles a name is looked up.
enum class Callable { kFilter, kTest, kFunction, kMethod };

// INVALID_ARGUMENT: there is no such callable, or it does not take so many or so named arguments.
absl::Status CheckCall(Callable kind, const std::string& name, size_t positional,
                       const std::vector<std::string>& named);

// Each REQUIRES that CheckCall agreed. INVALID_ARGUMENT: values of the wrong type; of raise_exception, its message.
absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& input, const Arguments& arguments,
                                  Arena* arena);
absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& input, const Arguments& arguments);
absl::StatusOr<Value> CallFunction(const std::string& name, const Arguments& arguments, Arena* arena);
absl::StatusOr<Value> CallMethod(const std::string& name, const Value& object, const Arguments& arguments,
                                 Arena* arena);

// Python's `item in container`.
absl::StatusOr<bool> Contains(const Value& container, const Value& item);
// What a for loop goes over: a list's items, a mapping's keys, a string's characters, nothing for undefined.
absl::StatusOr<List> Iterate(const Value& value, Arena* arena);

}  // namespace conclave::jinja

#endif  // CONCLAVE_MOE_TOKENIZER_JINJA_BUILTINS_H_
