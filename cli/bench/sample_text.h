// A text whose tokens the prompts of benchmarks are made of.
#ifndef CONCLAVE_CLI_BENCH_SAMPLE_TEXT_H_
#define CONCLAVE_CLI_BENCH_SAMPLE_TEXT_H_

#include "absl/strings/string_view.h"

namespace conclave {

// Ordinary words, so that a model's gates spread their tokens as they do for ordinary text.
inline constexpr absl::string_view kSampleText =
    "The harbour lay still in the early light. Two fishermen carried their nets along the stone wall, talking about "
    "the weather and the price of herring, while a boy with a red cap counted the gulls on the roof of the old "
    "market. Nobody had seen the ship arrive. It stood at the far end of the pier, tall and grey, without a flag, and "
    "its captain was already asking for water, bread and a map of the northern islands. In the town hall the clerk "
    "opened a heavy book and wrote down the date, the name of the vessel and the number of her crew. He asked how "
    "long they would stay. Until the wind turns, said the captain, or until your doctor has looked at my engineer, "
    "whose hand was burned three days ago. The clerk thought about it, closed the book and sent for the doctor. By "
    "noon the whole street knew that strangers had come, that they paid in silver, and that they wanted to buy every "
    "clock in the village. Some people laughed. Others went home, took the clock from the kitchen shelf, wound it up "
    "and listened to it for a while, as if they had never heard it before. When the evening came, eleven clocks stood "
    "on the table in the cabin, and each of them showed a different time.";

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_SAMPLE_TEXT_H_
