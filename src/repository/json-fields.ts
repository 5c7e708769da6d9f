/** The one way from stored JSON to typed values: every member is asked for by name, kind and bound, or it is 'absurd-object'. */
import { LifeboatError } from '../core/errors.ts'

export type JsonObject = Readonly<Record<string, unknown>>

const TEXT_MAX = 4096

const isObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Bytes that must be UTF-8 JSON of one object. `object` is the store's key, for messages. */
export function parseJsonObject(bytes: Uint8Array, object: string): JsonObject {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (cause) {
    throw new LifeboatError('absurd-object', `${object} holds no JSON`, { details: { object }, cause })
  }
  if (!isObject(value))
    throw new LifeboatError('absurd-object', `${object} holds no JSON object`, { details: { object } })
  return value
}

/** Members of one JSON object. Unknown members are never looked at, so that a later version may add some. */
export class JsonFields {
  readonly #values: JsonObject
  readonly #object: string

  constructor(values: JsonObject, object: string) {
    this.#values = values
    this.#object = object
  }

  has(name: string): boolean {
    return Object.hasOwn(this.#values, name) && this.#values[name] !== null
  }

  text(name: string, maxLength = TEXT_MAX): string {
    const value = this.#own(name)
    if (typeof value !== 'string' || value.length > maxLength) throw this.absurd(name)
    return value
  }

  hex(name: string, bytes: number): string {
    const value = this.text(name)
    if (value.length !== bytes * 2 || !/^[0-9a-f]+$/.test(value)) throw this.absurd(name)
    return value
  }

  oneOf<T extends string>(name: string, choices: readonly T[]): T {
    const value = this.text(name)
    const choice = choices.find(candidate => candidate === value)
    if (choice === undefined) throw this.absurd(name)
    return choice
  }

  count(name: string, max: number = Number.MAX_SAFE_INTEGER): number {
    const value = this.#own(name)
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0 || value > max) throw this.absurd(name)
    return value
  }

  flag(name: string): boolean {
    const value = this.#own(name)
    if (typeof value !== 'boolean') throw this.absurd(name)
    return value
  }

  date(name: string): Date {
    const date = new Date(this.text(name, 64))
    if (Number.isNaN(date.getTime())) throw this.absurd(name)
    return date
  }

  object(name: string): JsonObject {
    const value = this.#own(name)
    if (!isObject(value)) throw this.absurd(name)
    return value
  }

  fields(name: string): JsonFields {
    return new JsonFields(this.object(name), this.#object)
  }

  list(name: string, max: number): readonly JsonFields[] {
    return this.#array(name, max).map(value => {
      if (!isObject(value)) throw this.absurd(name)
      return new JsonFields(value, this.#object)
    })
  }

  texts(name: string, max: number): readonly string[] {
    return this.#array(name, max).map(value => {
      if (typeof value !== 'string' || value.length > TEXT_MAX) throw this.absurd(name)
      return value
    })
  }

  counts(name: string, max: number): readonly number[] {
    return this.#array(name, max).map(value => {
      if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw this.absurd(name)
      return value
    })
  }

  absurd(name: string): LifeboatError {
    const details = { object: this.#object, field: name }
    return new LifeboatError('absurd-object', `${this.#object} has no acceptable '${name}'`, { details })
  }

  #array(name: string, max: number): readonly unknown[] {
    const value = this.#own(name)
    if (!Array.isArray(value) || value.length > max) throw this.absurd(name)
    return value
  }

  #own(name: string): unknown {
    return Object.hasOwn(this.#values, name) ? this.#values[name] : undefined
  }
}
