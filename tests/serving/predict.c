/* Segments an image with an exported SavedModel by TensorFlow's C API alone, the loader that TF Serving uses.

     predict MODEL bytes IMAGE OUTPUT [RUNS]                  a JPEG, PNG, BMP, GIF or WebP, by serving_bytes
     predict MODEL pixels IMAGE OUTPUT HEIGHT WIDTH [RUNS]    raw RGB, by serving_default

   OUTPUT gets height and width, then the panoptic ids row by row, all as int32. With RUNS, the median time of so many
   runs after the first is printed in milliseconds. What the model refuses is printed, and the exit status is 1.

     gcc -O2 predict.c -o predict -I$T/include -L$T -l:libtensorflow_cc.so.2 -l:libtensorflow_framework.so.2 \
         -Wl,-rpath,$T          with T = site-packages/tensorflow, or where libtensorflow lies
*/

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void check(const TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

/* ---- The few fields of a MetaGraphDef that say which tensors a signature is made of. ---- */

typedef struct {
  const uint8_t *data;
  size_t size;
} Bytes;

static uint64_t read_varint(Bytes *from) {
  uint64_t value = 0;
  for (int shift = 0; from->size > 0 && shift < 64; shift += 7) {
    uint8_t byte = *from->data++;
    from->size--;
    value |= (uint64_t)(byte & 127) << shift;
    if (byte < 128) break;
  }
  return value;
}

/* Takes the next field from a message; returns its number, 0 at the end. Only length-delimited ones have content. */
static uint32_t next_field(Bytes *message, Bytes *content) {
  if (message->size == 0) return 0;
  uint64_t tag = read_varint(message);
  size_t length = 0;
  content->size = 0;
  switch (tag & 7) {
    case 0: read_varint(message); break;
    case 1: length = 8; break;
    case 2: length = content->size = read_varint(message); break;
    case 5: length = 4; break;
    default: fail("MetaGraphDef", "unknown wire type");
  }
  if (length > message->size) fail("MetaGraphDef", "ends too early");
  content->data = message->data;
  message->data += length;
  message->size -= length;
  return (uint32_t)(tag >> 3);
}

static Bytes field(Bytes message, uint32_t number) {
  Bytes content;
  for (uint32_t found; (found = next_field(&message, &content)) != 0;)
    if (found == number) return content;
  return (Bytes){NULL, 0};
}

/* The value of a key in a map<string, message>. */
static Bytes entry(Bytes message, uint32_t number, const char *key) {
  Bytes content;
  for (uint32_t found; (found = next_field(&message, &content)) != 0;) {
    if (found != number) continue;
    Bytes name = field(content, 1);
    if (name.size == strlen(key) && memcmp(name.data, key, name.size) == 0) return field(content, 2);
  }
  fail(key, "not in the SavedModel");
  return content;
}

enum { SIGNATURE_DEF = 5, INPUTS = 1, OUTPUTS = 2, TENSOR_NAME = 1 };

static TF_Output find_tensor(TF_Graph *graph, Bytes meta, const char *signature, uint32_t side, const char *key) {
  Bytes name = field(entry(entry(meta, SIGNATURE_DEF, signature), side, key), TENSOR_NAME);
  char text[1024];
  if (name.size >= sizeof text) fail(key, "name too long");
  memcpy(text, name.data, name.size);
  text[name.size] = 0;
  char *colon = strrchr(text, ':');
  int index = colon ? atoi(colon + 1) : 0;
  if (colon) *colon = 0;
  TF_Operation *operation = TF_GraphOperationByName(graph, text);
  if (!operation) fail(text, "no such operation");
  return (TF_Output){operation, index};
}

/* ---- Inputs and outputs. ---- */

static Bytes read_file(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) fail(path, "cannot be opened");
  fseek(file, 0, SEEK_END);
  size_t size = (size_t)ftell(file);
  rewind(file);
  uint8_t *data = malloc(size + 1);
  if (!data || fread(data, 1, size, file) != size) fail(path, "cannot be read");
  fclose(file);
  return (Bytes){data, size};
}

static TF_Tensor *string_tensor(Bytes value) {
  int64_t shape[1] = {1};
  TF_Tensor *tensor = TF_AllocateTensor(TF_STRING, shape, 1, sizeof(TF_TString));
  TF_TString *string = TF_TensorData(tensor);
  TF_StringInit(string);
  TF_StringCopy(string, (const char *)value.data, value.size);
  return tensor;
}

static TF_Tensor *pixel_tensor(Bytes value, int64_t height, int64_t width) {
  if (value.size != (size_t)(height * width * 3)) fail("pixels", "expected height * width * 3 bytes");
  int64_t shape[4] = {1, height, width, 3};
  TF_Tensor *tensor = TF_AllocateTensor(TF_UINT8, shape, 4, value.size);
  memcpy(TF_TensorData(tensor), value.data, value.size);
  return tensor;
}

static void write_map(const char *path, const TF_Tensor *map) {
  int32_t size[2] = {(int32_t)TF_Dim(map, 1), (int32_t)TF_Dim(map, 2)};
  FILE *file = fopen(path, "wb");
  if (!file) fail(path, "cannot be opened");
  fwrite(size, sizeof size, 1, file);
  fwrite(TF_TensorData(map), 1, TF_TensorByteSize(map), file);
  if (fclose(file)) fail(path, "cannot be written");
}

static double milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

static int ascending(const void *a, const void *b) {
  double difference = *(const double *)a - *(const double *)b;
  return (difference > 0) - (difference < 0);
}

int main(int count, char **words) {
  int of_bytes = count > 2 && strcmp(words[2], "bytes") == 0;
  int fixed = of_bytes ? 5 : 7;
  if (count < fixed || count > fixed + 1 || (!of_bytes && strcmp(words[2], "pixels") != 0))
    fail("usage", "predict MODEL bytes IMAGE OUTPUT [RUNS] | MODEL pixels IMAGE OUTPUT HEIGHT WIDTH [RUNS]");
  int runs = count > fixed ? atoi(words[fixed]) : 0;

  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  TF_Buffer *meta_graph = TF_NewBuffer();
  const char *tags[] = {"serve"};
  TF_Session *session =
      TF_LoadSessionFromSavedModel(options, NULL, words[1], tags, 1, graph, meta_graph, status);
  check(status, words[1]);

  Bytes meta = {meta_graph->data, meta_graph->length};
  const char *signature = of_bytes ? "serving_bytes" : "serving_default";
  TF_Output input = find_tensor(graph, meta, signature, INPUTS, of_bytes ? "image_bytes" : "images");
  TF_Output output = find_tensor(graph, meta, signature, OUTPUTS, "panoptic_pred");
  Bytes image = read_file(words[3]);
  TF_Tensor *given = of_bytes ? string_tensor(image) : pixel_tensor(image, atoll(words[5]), atoll(words[6]));

  double *times = calloc((size_t)runs + 1, sizeof *times);
  TF_Tensor *map = NULL;
  for (int run = 0; run <= runs; run++) {
    if (map) TF_DeleteTensor(map);
    double start = milliseconds();
    TF_SessionRun(session, NULL, &input, &given, 1, &output, &map, 1, NULL, 0, NULL, status);
    times[run] = milliseconds() - start;
    check(status, words[3]);
  }
  write_map(words[4], map);
  if (runs > 0) {
    qsort(times + 1, (size_t)runs, sizeof *times, ascending);
    printf("%.1f ms, median of %d runs\n", (times[1 + (runs - 1) / 2] + times[1 + runs / 2]) / 2, runs);
  }

  TF_DeleteTensor(map);
  TF_DeleteTensor(given);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteBuffer(meta_graph);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  free(times);
  free((void *)image.data);
  return 0;
}
