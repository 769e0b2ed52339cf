// For tools/grammar_oracle.py: reads lines of JSON from standard input and answers each with one. {"schema": TEXT}
// compiles a schema; {"samples": N, "seed": S} writes N random texts of it; {"accepts": TEXT} says whether it is one.
#include <algorithm>
#include <iostream>
#include <memory>
#include <random>
#include <string>

#include "moe/grammar/automaton.h"
#include "moe/grammar/json_schema.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

using nlohmann::json;

// A random walk; it prefers to close what is open once the text has become long.
std::string Sample(const GrammarProgram& program, std::mt19937_64& random) {
  GrammarAutomaton automaton(program);
  int32_t state = automaton.start();
  std::string text;
  while (true) {
    std::string bytes;
    for (int byte = 0; byte < 256; ++byte) {
      if (automaton.Step(state, static_cast<uint8_t>(byte)) >= 0) bytes += static_cast<char>(byte);
    }
    const bool ends = automaton.Accepts(state);
    if (ends && (bytes.empty() || random() % 4 == 0)) return text;
    const std::string closing = "\"]}0nulltruefalse:,";
    char byte = bytes[random() % bytes.size()];
    if (random() % (text.size() > 200 ? 2 : 8) != 0) {
      const std::string wanted = text.size() > 200 ? "\"]}" : closing;
      std::string likely;
      for (const char c : wanted) {
        if (bytes.find(c) != std::string::npos) likely += c;
      }
      if (!likely.empty()) byte = likely[random() % likely.size()];
    }
    state = automaton.Step(state, static_cast<uint8_t>(byte));
    text += byte;
    if (automaton.IsFull()) state = automaton.Forget(state);
  }
}

bool Accepts(const GrammarProgram& program, const std::string& text) {
  GrammarAutomaton automaton(program);
  int32_t state = automaton.start();
  for (const char c : text) {
    state = automaton.Step(state, static_cast<uint8_t>(c));
    if (state < 0) return false;
  }
  return automaton.Accepts(state);
}

int Main() {
  std::unique_ptr<GrammarProgram> program;
  for (std::string line; std::getline(std::cin, line);) {
    const json question = json::parse(line);
    json answer;
    if (question.contains("schema")) {
      auto compiled = CompileJsonSchema(question["schema"].get<std::string>());
      program = compiled.ok() ? std::make_unique<GrammarProgram>(*std::move(compiled)) : nullptr;
      answer = program != nullptr ? json{{"ok", true}} : json{{"error", std::string(compiled.status().message())}};
    } else if (question.contains("samples")) {
      std::mt19937_64 random(question["seed"].get<uint64_t>());
      answer = json::array();
      for (int i = 0; i < question["samples"].get<int>(); ++i) answer.push_back(Sample(*program, random));
    } else {
      answer = Accepts(*program, question["accepts"].get<std::string>());
    }
    std::cout << answer.dump() << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace conclave

int main() { return conclave::Main(); }
