// Runs a parsed template. Everything is bounded: steps, nesting, memory.
#ifndef CONCLAVE_MOE_TOKENIZER_JINJA_INTERPRETER_H_
#define CONCLAVE_MOE_TOKENIZER_JINJA_INTERPRETER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moe/tokenizer/jinja/ast.h"
#include "moe/tokenizer/jinja/builtins.h"
#include "moe/tokenizer/jinja/value.h"

namespace conclave::jinja {

// One rendering. The template and the arena must outlive it.
class Interpreter {
 public:
  explicit Interpreter(Arena* arena) : arena_(arena) {}

  // Appends what `block` prints to `out`; variables are read from and set in `scope`. INVALID_ARGUMENT names the line:
  // a type error, raise_exception, or more steps, nesting or memory than a chat template has any use for.
  absl::Status Render(const Block& block, Scope* scope, Text* out);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  // Statements.
  absl::StatusOr<Flow> Run(const Block& block, Scope* scope, Text* out);
  absl::StatusOr<Flow> RunOne(const Statement& statement, Scope* scope, Text* out);
  absl::StatusOr<Flow> RunFor(const Statement& loop, Scope* scope, Text* out);
  absl::StatusOr<Flow> RunIf(const Statement& branch, Scope* scope, Text* out);
  absl::StatusOr<Flow> RunSet(const Statement& set, Scope* scope);
  absl::StatusOr<List> LoopItems(const Statement& loop, Scope* scope);
  Value LoopVariable(const List& items, size_t index);
  absl::Status Assign(const Statement& statement, const Value& value, Scope* scope);
  // Expressions.
  absl::StatusOr<Value> Evaluate(const Expression& expression, Scope* scope);
  absl::StatusOr<Value> EvaluateNode(const Expression& expression, Scope* scope);
  absl::StatusOr<Value> EvaluateOperator(const Expression& expression, Scope* scope);
  absl::StatusOr<Value> EvaluateCompare(const Expression& expression, Scope* scope);
  absl::StatusOr<Value> EvaluateCall(const Expression& expression, Scope* scope);
  absl::StatusOr<Value> EvaluateSlice(const Expression& expression, Scope* scope);
  absl::StatusOr<Value> EvaluateCollection(const Expression& expression, Scope* scope);
  absl::StatusOr<Arguments> EvaluateArguments(const Expression& call, size_t first, Scope* scope);
  absl::StatusOr<Value> CallMacro(const Macro& macro, const Arguments& arguments);
  absl::StatusOr<Value> FilterBlock(const Expression& filter, const Value& input, Scope* scope);
  // Counts a step. INVALID_ARGUMENT when a limit is passed.
  absl::Status Step(int line);

  Arena* arena_;
  int64_t steps_ = 0;
  int depth_ = 0;  // of Evaluate and Run within each other
  int loop_depth_ = 0;
};

// object.name and object[key], as Jinja looks them up. INVALID_ARGUMENT: `object` is undefined.
absl::StatusOr<Value> GetItem(const Value& object, const Value& key, Arena* arena);
// left + right and so on. INVALID_ARGUMENT: types that do not fit, division by zero, integer overflow.
absl::StatusOr<Value> Arithmetic(const std::string& operation, const Value& left, const Value& right, Arena* arena);
// object[start:stop:step]; undefined bounds are absent ones.
absl::StatusOr<Value> Slice(const Value& object, const Value& start, const Value& stop, const Value& step,
                            Arena* arena);

}  // namespace conclave::jinja

#endif  // CONCLAVE_MOE_TOKENIZER_JINJA_INTERPRETER_H_
