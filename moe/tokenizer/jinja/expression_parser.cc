#include "moe/tokenizer/jinja/expression_parser.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/jinja/builtins.h"

namespace conclave::jinja {
namespace {

constexpr int kExpressionDepthMax = 100;
constexpr size_t kItemsMax = 1000;  // of one tuple

}  // namespace

std::string SpelledToken(const Token& token) {
  switch (token.kind) {
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kPrintEnd:
      return "}}";
    case TokenKind::kBlockEnd:
      return "%}";
    default:
      return absl::StrCat("'", token.text.substr(0, 40), "'");
  }
}

Token TokenCursor::Next() {
  const Token token = Peek();
  if (token.kind != TokenKind::kEnd) ++at_;
  return token;
}

bool TokenCursor::TakeOperator(absl::string_view text) {
  if (!AtOperator(text)) return false;
  ++at_;
  return true;
}

bool TokenCursor::TakeName(absl::string_view text) {
  if (!AtName(text)) return false;
  ++at_;
  return true;
}

absl::Status TokenCursor::Expect(TokenKind kind, absl::string_view text) {
  if (Peek().kind == kind && (kind != TokenKind::kOperator || absl::string_view(Peek().text) == text)) {
    ++at_;
    return absl::OkStatus();
  }
  return LineError(Peek().line, absl::StrCat("expected ", std::string(text), " but found ", SpelledToken(Peek())));
}

absl::StatusOr<std::string> TokenCursor::ExpectName() {
  if (Peek().kind != TokenKind::kName) {
    return LineError(Peek().line, absl::StrCat("expected a name but found ", SpelledToken(Peek())));
  }
  return Next().text;
}

ExpressionPtr ExpressionParser::New(ExpressionKind kind, std::string name) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = cursor_->Peek().line;
  expression->name = std::move(name);
  return expression;
}

ExpressionPtr ExpressionParser::Literal(Value value) const {
  ExpressionPtr literal = New(ExpressionKind::kLiteral);
  literal->value = value;
  return literal;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Finish(ExpressionPtr expression) const {
  int depth = 0;
  for (const ExpressionPtr& operand : expression->operands) {
    if (operand != nullptr) depth = std::max(depth, operand->depth);
  }
  for (const auto& [name, operand] : expression->named) depth = std::max(depth, operand->depth);
  expression->depth = depth + 1;
  if (expression->depth > kExpressionDepthMax) {
    return LineError(expression->line, absl::StrCat("an expression nested deeper than ", kExpressionDepthMax));
  }
  return expression;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Binary(ExpressionKind kind, std::string name, ExpressionPtr left,
                                                       ExpressionPtr right) {
  ExpressionPtr node = New(kind, std::move(name));
  node->operands.push_back(std::move(left));
  node->operands.push_back(std::move(right));
  return Finish(std::move(node));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Parse() {
  if (nesting_ >= kExpressionDepthMax) {
    return LineError(cursor_->Peek().line, absl::StrCat("an expression nested deeper than ", kExpressionDepthMax));
  }
  ++nesting_;
  absl::StatusOr<ExpressionPtr> value = Or();
  while (value.ok() && cursor_->TakeName("if")) {
    ExpressionPtr node = New(ExpressionKind::kConditional);
    node->operands.push_back(*std::move(value));
    ASSIGN_OR_RETURN(ExpressionPtr condition, Or());
    node->operands.push_back(std::move(condition));
    ExpressionPtr otherwise;
    if (cursor_->TakeName("else")) {
      ASSIGN_OR_RETURN(otherwise, Parse());
    }
    node->operands.push_back(std::move(otherwise));
    value = Finish(std::move(node));
  }
  --nesting_;
  return value;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseTuple() {
  ASSIGN_OR_RETURN(ExpressionPtr first, Parse());
  if (!cursor_->AtOperator(",")) return first;
  ExpressionPtr tuple = New(ExpressionKind::kList);
  tuple->operands.push_back(std::move(first));
  while (cursor_->TakeOperator(",")) {
    const TokenKind next = cursor_->Peek().kind;
    if (cursor_->AtOperator(")") || next == TokenKind::kBlockEnd || next == TokenKind::kPrintEnd) break;
    ASSIGN_OR_RETURN(ExpressionPtr item, Parse());
    tuple->operands.push_back(std::move(item));
    if (tuple->operands.size() > kItemsMax) return LineError(tuple->line, "a tuple of too many items");
  }
  return Finish(std::move(tuple));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Or() {
  ASSIGN_OR_RETURN(ExpressionPtr left, And());
  while (cursor_->TakeName("or")) {
    ASSIGN_OR_RETURN(ExpressionPtr right, And());
    ASSIGN_OR_RETURN(left, Binary(ExpressionKind::kOr, "or", std::move(left), std::move(right)));
  }
  return left;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::And() {
  ASSIGN_OR_RETURN(ExpressionPtr left, Not());
  while (cursor_->TakeName("and")) {
    ASSIGN_OR_RETURN(ExpressionPtr right, Not());
    ASSIGN_OR_RETURN(left, Binary(ExpressionKind::kAnd, "and", std::move(left), std::move(right)));
  }
  return left;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Not() {
  int negations = 0;
  while (cursor_->TakeName("not")) ++negations;
  ASSIGN_OR_RETURN(ExpressionPtr value, Comparison());
  for (int i = 0; i < std::min(negations, kExpressionDepthMax); ++i) {
    ExpressionPtr node = New(ExpressionKind::kNot);
    node->operands.push_back(std::move(value));
    ASSIGN_OR_RETURN(value, Finish(std::move(node)));
  }
  return value;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Comparison() {
  ASSIGN_OR_RETURN(ExpressionPtr left, Sum());
  ExpressionPtr chain;
  while (true) {
    std::string name;
    for (const char* candidate : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (name.empty() && cursor_->TakeOperator(candidate)) name = candidate;
    }
    if (name.empty() && cursor_->TakeName("in")) name = "in";
    if (name.empty() && cursor_->AtName("not") && cursor_->Peek(1).kind == TokenKind::kName &&
        cursor_->Peek(1).text == "in") {
      cursor_->Next();
      cursor_->Next();
      name = "not in";
    }
    if (name.empty()) break;
    if (chain == nullptr) {
      chain = New(ExpressionKind::kCompare);
      chain->operands.push_back(std::move(left));
    }
    ASSIGN_OR_RETURN(ExpressionPtr right, Sum());
    chain->operators.push_back(name);
    chain->operands.push_back(std::move(right));
  }
  if (chain == nullptr) return left;
  return Finish(std::move(chain));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Sum() {
  ASSIGN_OR_RETURN(ExpressionPtr left, Concatenation());
  while (cursor_->AtOperator("+") || cursor_->AtOperator("-")) {
    const std::string name = cursor_->Next().text;
    ASSIGN_OR_RETURN(ExpressionPtr right, Concatenation());
    ASSIGN_OR_RETURN(left, Binary(ExpressionKind::kBinary, name, std::move(left), std::move(right)));
  }
  return left;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Concatenation() {
  ASSIGN_OR_RETURN(ExpressionPtr left, Product());
  if (!cursor_->AtOperator("~")) return left;
  ExpressionPtr joined = New(ExpressionKind::kConcat);
  joined->operands.push_back(std::move(left));
  while (cursor_->TakeOperator("~")) {
    ASSIGN_OR_RETURN(ExpressionPtr right, Product());
    joined->operands.push_back(std::move(right));
  }
  return Finish(std::move(joined));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Product() {
  ASSIGN_OR_RETURN(ExpressionPtr left, Unary(/*with_filters=*/true));
  while (true) {
    if (cursor_->AtOperator("**")) return LineError(cursor_->Peek().line, "the operator ** is not supported");
    const bool known =
        cursor_->AtOperator("*") || cursor_->AtOperator("/") || cursor_->AtOperator("//") || cursor_->AtOperator("%");
    if (!known) return left;
    const std::string name = cursor_->Next().text;
    ASSIGN_OR_RETURN(ExpressionPtr right, Unary(/*with_filters=*/true));
    ASSIGN_OR_RETURN(left, Binary(ExpressionKind::kBinary, name, std::move(left), std::move(right)));
  }
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Unary(bool with_filters) {
  ExpressionPtr value;
  if (cursor_->AtOperator("-") || cursor_->AtOperator("+")) {
    const bool negative = cursor_->Next().text == "-";
    if (nesting_ >= kExpressionDepthMax) return LineError(cursor_->Peek().line, "too many signs");
    ++nesting_;
    absl::StatusOr<ExpressionPtr> operand = Unary(/*with_filters=*/false);
    --nesting_;
    RETURN_IF_ERROR(operand.status());
    ExpressionPtr node = New(negative ? ExpressionKind::kNegative : ExpressionKind::kPositive);
    node->operands.push_back(*std::move(operand));
    ASSIGN_OR_RETURN(value, Finish(std::move(node)));
  } else {
    ASSIGN_OR_RETURN(value, Primary());
  }
  ASSIGN_OR_RETURN(value, Postfix(std::move(value)));
  if (!with_filters) return value;
  return FiltersAndTests(std::move(value));
}

}  // namespace conclave::jinja
