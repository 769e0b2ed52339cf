// The expressions within Jinja's tags.
#ifndef CONCLAVE_MOE_TOKENIZER_JINJA_EXPRESSION_PARSER_H_
#define CONCLAVE_MOE_TOKENIZER_JINJA_EXPRESSION_PARSER_H_

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moe/tokenizer/jinja/ast.h"
#include "moe/tokenizer/jinja/lexer.h"

namespace conclave::jinja {

// A token as messages quote it.
std::string SpelledToken(const Token& token);

// A place within the tokens of a template; the last token is kEnd and is never passed.
class TokenCursor {
 public:
  explicit TokenCursor(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  const Token& Peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  Token Next();
  bool AtOperator(absl::string_view text) const { return At(TokenKind::kOperator, text); }
  bool AtName(absl::string_view text) const { return At(TokenKind::kName, text); }
  bool TakeOperator(absl::string_view text);
  bool TakeName(absl::string_view text);
  // INVALID_ARGUMENT names what stands there instead.
  absl::Status Expect(TokenKind kind, absl::string_view text);
  absl::StatusOr<std::string> ExpectName();

 private:
  bool At(TokenKind kind, absl::string_view text) const {
    return Peek().kind == kind && absl::string_view(Peek().text) == text;
  }
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

// Parses expressions by precedence.
class ExpressionParser {
 public:
  explicit ExpressionParser(TokenCursor* cursor) : cursor_(cursor) {}

  // A whole expression; with commas a tuple.
  absl::StatusOr<ExpressionPtr> Parse();
  absl::StatusOr<ExpressionPtr> ParseTuple();
  // Without `… if … else …`, because `for … in … if …` means something else.
  absl::StatusOr<ExpressionPtr> ParseWithoutConditional() { return Or(); }
  // "|name(arguments)" and so on, around `input`, which may be null.
  absl::StatusOr<ExpressionPtr> ParseFilters(ExpressionPtr input);

  // Functions that were called and are not built in: they must turn out to be macros.
  struct MacroCall {
    std::string name;
    int line;
  };
  const std::vector<MacroCall>& macro_calls() const { return macro_calls_; }

 private:
  absl::StatusOr<ExpressionPtr> Or();
  absl::StatusOr<ExpressionPtr> And();
  absl::StatusOr<ExpressionPtr> Not();
  absl::StatusOr<ExpressionPtr> Comparison();
  absl::StatusOr<ExpressionPtr> Sum();
  absl::StatusOr<ExpressionPtr> Concatenation();
  absl::StatusOr<ExpressionPtr> Product();
  absl::StatusOr<ExpressionPtr> Unary(bool with_filters);
  absl::StatusOr<ExpressionPtr> Primary();
  absl::StatusOr<ExpressionPtr> Name();
  absl::StatusOr<ExpressionPtr> Parenthesis();
  absl::StatusOr<ExpressionPtr> ListLiteral();
  absl::StatusOr<ExpressionPtr> DictLiteral();
  absl::StatusOr<ExpressionPtr> Postfix(ExpressionPtr object);
  absl::StatusOr<ExpressionPtr> FiltersAndTests(ExpressionPtr object);
  absl::StatusOr<ExpressionPtr> Subscript(ExpressionPtr object);
  absl::StatusOr<ExpressionPtr> Call(ExpressionPtr callee);
  absl::StatusOr<ExpressionPtr> Filter(ExpressionPtr input);
  absl::StatusOr<ExpressionPtr> Test(ExpressionPtr input);
  absl::Status ParseArguments(Expression* call);

  ExpressionPtr New(ExpressionKind kind, std::string name = "") const;
  ExpressionPtr Literal(Value value) const;
  // Computes the depth and limits it; every new node passes here.
  absl::StatusOr<ExpressionPtr> Finish(ExpressionPtr expression) const;
  absl::StatusOr<ExpressionPtr> Binary(ExpressionKind kind, std::string name, ExpressionPtr left, ExpressionPtr right);

  TokenCursor* cursor_;
  int nesting_ = 0;  // of calls to Parse: brackets within brackets
  std::vector<MacroCall> macro_calls_;
};

}  // namespace conclave::jinja

#endif  // CONCLAVE_MOE_TOKENIZER_JINJA_EXPRESSION_PARSER_H_
