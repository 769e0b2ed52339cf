// Feeds arbitrary bytes to the compiler of JSON Schemas and of patterns: nothing may crash, what is refused has a
// message, and a text that a grammar has begun can always go on or end.
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "moe/base/check.h"
#include "moe/grammar/automaton.h"
#include "moe/grammar/grammar.h"
#include "moe/grammar/program.h"

namespace {

// A walk through the grammar, which the input itself directs.
void Walk(const conclave::GrammarProgram& program, const std::string& directions) {
  constexpr size_t kStepsMax = 48;
  conclave::GrammarAutomaton automaton(program);
  int32_t state = automaton.start();
  for (size_t i = 0; i < kStepsMax; ++i) {
    const uint32_t wanted = static_cast<uint8_t>(directions[i % directions.size()]);
    int32_t next = conclave::GrammarAutomaton::kDead;
    for (uint32_t byte = 0; byte < 256 && next == conclave::GrammarAutomaton::kDead; ++byte) {
      next = automaton.Step(state, static_cast<uint8_t>(wanted + byte * 7));
    }
    if (next == conclave::GrammarAutomaton::kLimit) return;
    CONCLAVE_CHECK(next >= 0 || automaton.Accepts(state)) << "a dead end after " << i << " bytes";
    if (next < 0) return;
    state = i % 16 == 15 ? automaton.Forget(next) : next;
    CONCLAVE_CHECK(state >= 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  conclave::GrammarSpec spec;
  spec.kind = data[0] == '/' ? conclave::GrammarSpec::Kind::kRegex : conclave::GrammarSpec::Kind::kJsonSchema;
  const size_t skipped = data[0] == '/' ? 1 : 0;
  spec.text.assign(reinterpret_cast<const char*>(data) + skipped, size - skipped);
  const auto program = conclave::CompileGrammar(spec);
  if (program.ok()) {
    Walk(*program, spec.text);
  } else {
    CONCLAVE_CHECK(absl::IsInvalidArgument(program.status()) && !program.status().message().empty());
  }
  return 0;
}
