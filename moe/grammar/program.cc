#include "moe/grammar/program.h"

#include <algorithm>
#include <bitset>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"

namespace conclave {
namespace {

constexpr int32_t kNoWay = kGrammarDepthMax + 1;

// One less deep than what is called.
int32_t Below(int32_t height) { return std::min(height + 1, kNoWay); }

int32_t HeightOf(const GrammarInstruction& at, const std::vector<int32_t>& height) {
  switch (at.op) {
    case GrammarOp::kBytes:
      return height[at.next];
    case GrammarOp::kSplit:
      return std::min(height[at.next], height[at.other]);
    case GrammarOp::kCall:
      return std::max(height[at.next], Below(height[at.other]));
    case GrammarOp::kRepeat:
      return at.least == 0 ? height[at.next] : std::max(height[at.next], Below(height[at.other]));
    case GrammarOp::kReturn:
      return 0;
    case GrammarOp::kFail:
      return kNoWay;
  }
  return kNoWay;
}

// Heights fall from "no way". Parts stand before whatever leads to them, but for calls, which cost one each: a pass
// settles all heights that need one call more than those settled before it.
std::vector<int32_t> Heights(const std::vector<GrammarInstruction>& code) {
  std::vector<int32_t> height(code.size(), kNoWay);
  bool changed = true;
  for (int pass = 0; changed && pass <= kNoWay; ++pass) {
    changed = false;
    for (size_t i = 0; i < code.size(); ++i) {
      const int32_t now = HeightOf(code[i], height);
      changed |= now != height[i];
      height[i] = now;
    }
  }
  return height;
}

void FillByteClasses(GrammarProgram& program) {
  std::bitset<257> begins;
  begins[0] = true;
  for (const GrammarInstruction& at : program.code) {
    if (at.op != GrammarOp::kBytes) continue;
    begins[at.low] = true;
    begins[at.high + 1] = true;
  }
  int classes = 0;
  for (int byte = 0; byte < 256; ++byte) {
    if (begins[byte]) ++classes;
    program.byte_class[byte] = static_cast<uint8_t>(classes - 1);
  }
  program.byte_classes = classes;
}

}  // namespace

GrammarBuilder::GrammarBuilder() {
  code_.push_back({.op = GrammarOp::kReturn});
  code_.push_back({.op = GrammarOp::kFail});
}

int32_t GrammarBuilder::Add(const GrammarInstruction& instruction) {
  if (static_cast<int>(code_.size()) >= kGrammarInstructionsMax) {
    too_large_ = true;
    return Fail();
  }
  code_.push_back(instruction);
  return static_cast<int32_t>(code_.size()) - 1;
}

int32_t GrammarBuilder::Bytes(uint8_t low, uint8_t high, int32_t next) {
  return Add({.op = GrammarOp::kBytes, .low = low, .high = high, .next = next});
}

int32_t GrammarBuilder::Byte(char byte, int32_t next) {
  return Bytes(static_cast<uint8_t>(byte), static_cast<uint8_t>(byte), next);
}

int32_t GrammarBuilder::Literal(absl::string_view text, int32_t next) {
  for (size_t i = text.size(); i > 0; --i) next = Byte(text[i - 1], next);
  return next;
}

int32_t GrammarBuilder::Literals(std::vector<std::string> texts, int32_t next) {
  std::sort(texts.begin(), texts.end());
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  return LiteralsFrom(texts, 0, next);
}

// texts: sorted, alike in their first `at` bytes. It calls itself once for each place where texts part.
int32_t GrammarBuilder::LiteralsFrom(absl::Span<const std::string> texts, size_t at, int32_t next) {
  if (texts.empty()) return Fail();
  const absl::string_view first = texts.front(), last = texts.back();
  size_t same = at;
  while (same < first.size() && same < last.size() && first[same] == last[same]) ++same;
  int32_t begin = Fail();
  size_t from = 0;
  if (first.size() == same) {
    begin = next;
    from = 1;
  }
  while (from < texts.size()) {
    size_t to = from + 1;
    while (to < texts.size() && texts[to][same] == texts[from][same]) ++to;
    const int32_t rest = LiteralsFrom(texts.subspan(from, to - from), same + 1, next);
    begin = Split(Byte(texts[from][same], rest), begin);
    from = to;
  }
  return Literal(first.substr(at, same - at), begin);
}

int32_t GrammarBuilder::Split(int32_t one, int32_t other) {
  if (one == other || other == Fail()) return one;
  if (one == Fail()) return other;
  return Add({.op = GrammarOp::kSplit, .next = one, .other = other});
}

int32_t GrammarBuilder::NewRule() {
  rules_.push_back(Fail());
  return static_cast<int32_t>(rules_.size()) - 1;
}

void GrammarBuilder::SetRule(int32_t rule, int32_t begin) { rules_[rule] = begin; }

int32_t GrammarBuilder::Call(int32_t rule, int32_t next) {
  return Add({.op = GrammarOp::kCall, .next = next, .other = rule});
}

int32_t GrammarBuilder::Repeat(int32_t rule, int32_t least, int32_t most, int32_t next) {
  CONCLAVE_CHECK(least >= 0 && (most < 0 || most >= least)) << least << " to " << most;
  if (most == 0) return next;
  return Add({.op = GrammarOp::kRepeat, .next = next, .other = rule, .least = least, .most = most});
}

absl::StatusOr<GrammarProgram> GrammarBuilder::Finish(int32_t start) {
  if (too_large_) {
    return absl::InvalidArgumentError(absl::StrCat("is too large: it needs more than ", kGrammarInstructionsMax,
                                                   " steps of the machine that checks answers"));
  }
  GrammarProgram program;
  program.code = code_;
  program.start = start;
  for (GrammarInstruction& at : program.code) {
    if (at.op == GrammarOp::kCall || at.op == GrammarOp::kRepeat) at.other = rules_[at.other];
  }
  program.height = Heights(program.code);
  if (program.height[start] > kGrammarDepthMax) {
    return absl::InvalidArgumentError("no answer can satisfy it, or none that is not nested too deeply");
  }
  FillByteClasses(program);
  return program;
}

}  // namespace conclave
