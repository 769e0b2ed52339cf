#include "moe/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/regex_syntax.h"
#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

constexpr size_t kPatternBytesMax = 1 << 16;
constexpr size_t kJitStackBytesStart = 32 << 10;
constexpr size_t kJitStackBytesMax = 8 << 20;
constexpr uint32_t kHeapKibibytesMax = 64 << 10;

}  // namespace

struct RegexScratch::State {
  State()
      : match(pcre2_match_data_create(1, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(kJitStackBytesStart, kJitStackBytesMax, nullptr)) {
    CONCLAVE_CHECK(match != nullptr && context != nullptr) << "out of memory";
    pcre2_set_heap_limit(context, kHeapKibibytesMax);
    // Without JIT on this machine there is no such stack, and none is needed.
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~State() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(match);
  }
  pcre2_match_data* match;
  pcre2_match_context* context;
  pcre2_jit_stack* stack;
};

RegexScratch::RegexScratch() : state_(std::make_unique<State>()) {}
RegexScratch::~RegexScratch() = default;

struct Regex::Code {
  explicit Code(pcre2_code* code) : code(code) {}
  ~Code() { pcre2_code_free(code); }
  pcre2_code* code;
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

absl::StatusOr<Regex> Regex::CompilePcre2(absl::string_view pattern, absl::string_view shown) {
  if (shown.size() > kPatternBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a pattern of ", shown.size(), " bytes; at most ", kPatternBytesMax, " are supported"));
  }
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // MULTILINE, because Oniguruma's ^ and $ always mean lines.
  const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(absl::StrCat("the pattern '", std::string(shown),
                                                   "' does not compile: ", reinterpret_cast<const char*>(message)));
  }
  // Where JIT is not available the interpreter gives the same matches.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return Regex(std::make_unique<Code>(code));
}

absl::StatusOr<Regex> Regex::Compile(absl::string_view pattern) {
  if (!IsUtf8(pattern)) return absl::InvalidArgumentError("a pattern that is not UTF-8");
  ASSIGN_OR_RETURN(const std::string translated, ToPcre2Syntax(pattern));
  return CompilePcre2(translated, pattern);
}

absl::StatusOr<Regex> Regex::CompileLiteral(absl::string_view text) { return CompilePcre2(QuoteForPcre2(text), text); }

void Regex::ForEachMatch(absl::string_view text, RegexScratch* scratch,
                         absl::FunctionRef<void(size_t, size_t)> found) const {
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  RegexScratch::State& state = *scratch->state_;
  // A single search may look at every character a number of times, so that the limit grows with the text.
  pcre2_set_match_limit(state.context, static_cast<uint32_t>(std::min<size_t>((1 << 20) + 64 * text.size(),
                                                                              std::numeric_limits<uint32_t>::max())));
  size_t at = 0;
  bool may_be_empty = true;
  while (at <= text.size()) {
    const uint32_t options = PCRE2_NO_UTF_CHECK | (may_be_empty ? 0 : PCRE2_NOTEMPTY_ATSTART);
    if (pcre2_match(code_->code, subject, text.size(), at, options, state.match, state.context) < 0) return;
    const PCRE2_SIZE* match = pcre2_get_ovector_pointer(state.match);
    found(match[0], match[1]);
    at = match[1];
    may_be_empty = false;
  }
}

}  // namespace conclave
