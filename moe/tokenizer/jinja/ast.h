// A parsed template. Immutable after parsing, so that many renderings may share it.
#ifndef CONCLAVE_MOE_TOKENIZER_JINJA_AST_H_
#define CONCLAVE_MOE_TOKENIZER_JINJA_AST_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "moe/tokenizer/jinja/text.h"
#include "moe/tokenizer/jinja/value.h"

namespace conclave::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class ExpressionKind {
  kLiteral,      // value
  kName,         // name
  kList,         // [operands…]; a tuple counts as a list
  kDict,         // operands: key, value, key, value…
  kAttribute,    // operands[0].name
  kItem,         // operands[0][operands[1]]
  kSlice,        // operands[0][operands[1]:operands[2]:operands[3]]; absent ones are null
  kCall,         // name(operands…, named…): a function or macro
  kMethod,       // operands[0].name(operands[1…], named…)
  kFilter,       // operands[0]|name(operands[1…], named…); operands[0] is null in a block's filter
  kTest,         // operands[0] is name(operands[1…])
  kNot,          // not operands[0]
  kNegative,     // -operands[0]
  kPositive,     // +operands[0]
  kBinary,       // operands[0] name operands[1]: + - * / // %
  kConcat,       // operands joined by ~
  kCompare,      // operands[0] operators[0] operands[1] operators[1] operands[2] …
  kAnd,          // operands[0] and operands[1]
  kOr,           // operands[0] or operands[1]
  kConditional,  // operands[0] if operands[1] else operands[2], which may be null
};

// One node of an expression; which members count, depends on its kind.
struct Expression {
  ExpressionKind kind;
  int line;
  int depth = 1;  // of the tree below, this node included
  std::string name;
  Text text;    // what a literal string points to
  Value value;  // of a literal
  std::vector<ExpressionPtr> operands;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  std::vector<std::string> operators;
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

// What a statement does.
enum class StatementKind {
  kText,      // text
  kPrint,     // {{ expression }}
  kFor,       // for targets in expression if condition: blocks[0], else blocks[1]
  kIf,        // conditions[i]: blocks[i]; one block more than conditions is the else
  kSet,       // set targets = expression, or set targets[0].attribute = expression
  kSetBlock,  // set targets[0]: blocks[0]
  kMacro,     // macro name(targets, with defaults for the last ones): blocks[0]
  kBreak,
  kContinue,
};

// One statement with its body; which members count, depends on its kind.
struct Statement {
  StatementKind kind;
  int line;
  Text text;
  std::string name;
  std::vector<std::string> targets;
  std::string attribute;  // empty where the target is a plain variable
  ExpressionPtr expression, condition;
  std::vector<ExpressionPtr> conditions;  // of kIf; of kMacro the defaults of the last targets
  std::vector<Block> blocks;
};

}  // namespace conclave::jinja

#endif  // CONCLAVE_MOE_TOKENIZER_JINJA_AST_H_
